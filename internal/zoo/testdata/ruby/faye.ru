# Faye as a server: https://faye.jcoglan.com/ruby.html
require "faye"

run Faye::RackAdapter.new(mount: "/faye", timeout: 120) # see npm/faye.js
