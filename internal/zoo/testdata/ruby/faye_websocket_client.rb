# faye-websocket as a client: https://github.com/faye/faye-websocket-ruby#readme
require 'eventmachine'
require 'faye/websocket'

URL, ROOT = ARGV
$stdout.sync = true

def open_ws(path)
  Faye::WebSocket::Client.new(URL.sub(%r{/zoo$}, path), ['zoo.v1', 'zoo.v2'],
                              headers: { 'Origin' => URL.sub('ws', 'http').sub(%r{/zoo$}, '') },
                              tls: { root_cert_file: ROOT })
end

EM.run do
  EM.add_timer(25) { abort 'slow' }
  cases = ['small', 'ä' * 35_000, [0, 255], [7] * 300_000]
  ws = open_ws('/zoo')
  ws.on :open do
    puts "open: #{ws.protocol}"
    ws.send(cases.first)
  end
  ws.on :message do |event|
    abort 'another message comes back' if event.data != cases.shift
    if cases.any?
      ws.send(cases.first)
    else
      puts 'messages: all come back'
      ws.ping('anybody') do
        puts 'Ping: Pong'
        ws.send('leave')
      end
    end
  end
  ws.on :close do |event|
    puts "server closes: #{event.code} #{event.reason}"
    second = open_ws('/zoo')
    second.on(:open) { second.close(1000, 'bye') }
    second.on :close do |e|
      puts "client closes: #{e.code} #{e.reason}"
      third = open_ws('/private')
      third.on(:error) { |refusal| puts "without login: #{refusal.message}" }
      third.on(:close) { EM.stop }
    end
  end
end
