// WebSocket++ as a server: https://docs.websocketpp.org/
#include <websocketpp/config/asio_no_tls.hpp>
#include <websocketpp/extensions/permessage_deflate/enabled.hpp>
#include <websocketpp/server.hpp>

#include <algorithm>

struct config : websocketpp::config::asio {
	struct permessage_deflate_config {};
	typedef websocketpp::extensions::permessage_deflate::enabled<permessage_deflate_config> permessage_deflate_type;
};
typedef websocketpp::server<config> server;
using websocketpp::connection_hdl;

int main(int, char **args) {
	server s;
	s.clear_access_channels(websocketpp::log::alevel::all);
	s.init_asio();
	s.set_reuse_addr(true);
	s.set_validate_handler([&](connection_hdl h) {
		auto c = s.get_con_from_hdl(h);
		if (c->get_resource() == "/private") {
			c->append_header("WWW-Authenticate", "Basic realm=\"zoo\"");
			c->set_status(websocketpp::http::status_code::unauthorized);
			return false;
		}
		auto offered = c->get_requested_subprotocols();
		if (std::find(offered.begin(), offered.end(), "zoo.v2") != offered.end())
			c->select_subprotocol("zoo.v2");
		return true;
	});
	s.set_message_handler([&](connection_hdl h, server::message_ptr m) {
		if (m->get_opcode() == websocketpp::frame::opcode::text && m->get_payload() == "leave")
			s.close(h, 4001, "as asked");
		else
			s.send(h, m->get_payload(), m->get_opcode());
	});
	s.listen("127.0.0.1", args[1]);
	s.start_accept();
	s.run();
}
