# em-websocket as a server: https://github.com/igrigorik/em-websocket#readme
require 'em-websocket'

EM.run do
  EM::WebSocket.run(host: '127.0.0.1', port: ARGV[0].to_i) do |ws|
    ws.onmessage do |message|
      if message == 'leave'
        ws.close(4001, 'as asked')
      else
        ws.send_text(message)
      end
    end
    ws.onbinary { |message| ws.send_binary(message) }
  end
end
