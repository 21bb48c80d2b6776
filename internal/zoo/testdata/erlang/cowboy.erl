% Cowboy as a server: https://ninenines.eu/docs/en/cowboy/2.8/guide/ws_handlers/
% It is run as a script, with Cowboy's folders in ERL_LIBS.
-module(cowboy_zoo).
-mode(compile).
-export([main/1, init/2, websocket_handle/2, websocket_info/2]).

main([Port]) ->
	{ok, _} = application:ensure_all_started(cowboy),
	Routes = cowboy_router:compile([{'_', [{"/echo", ?MODULE, []}, {"/private", ?MODULE, private}]}]),
	{ok, _} = cowboy:start_clear(zoo, [{ip, {127, 0, 0, 1}}, {port, list_to_integer(Port)}], #{env => #{dispatch => Routes}}),
	receive after infinity -> ok end.

init(Request, private) ->
	{ok, cowboy_req:reply(401, #{<<"www-authenticate">> => <<"Basic realm=\"zoo\"">>}, Request), private};
init(Request, State) ->
	Options = #{compress => true, max_frame_size => 1 bsl 21},
	case cowboy_req:parse_header(<<"sec-websocket-protocol">>, Request, []) of
		[] -> {cowboy_websocket, Request, State, Options};
		_ -> {cowboy_websocket, cowboy_req:set_resp_header(<<"sec-websocket-protocol">>, <<"zoo.v2">>, Request), State, Options}
	end.

websocket_handle({text, <<"leave">>}, State) -> {[{close, 4001, <<"as asked">>}], State};
websocket_handle({Kind, Data}, State) when Kind =:= text; Kind =:= binary -> {[{Kind, Data}], State};
websocket_handle(_, State) -> {[], State}.

websocket_info(_, State) -> {[], State}.
