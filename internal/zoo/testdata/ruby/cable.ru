# Action Cable on puma, alone: https://guides.rubyonrails.org/action_cable_overview.html
require 'logger'
require 'action_cable'

ActionCable.server.config.cable = { 'adapter' => 'async' }
ActionCable.server.config.logger = Logger.new(nil)
ActionCable.server.config.allow_same_origin_as_host = true

module ApplicationCable
  class Connection < ActionCable::Connection::Base
    def connect
      reject_unauthorized_connection if request.params['token'] == 'wrong'
    end
  end
end

class ZooChannel < ActionCable::Channel::Base
  def subscribed
    stream_from "zoo_#{params[:id]}"
  end

  def echo(data)
    ActionCable.server.broadcast("zoo_#{params[:id]}", { text: data['text'] })
  end

  def leave
    connection.close(reason: 'as asked', reconnect: false)
  end
end

ActionCable.server.config.connection_class = -> { ApplicationCable::Connection }
map('/cable') { run ActionCable.server }
