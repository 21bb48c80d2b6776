// SockJS's client: with its defaults, and by HTTP alone.
import SockJS from 'sockjs-client'

for (const transports of [undefined, ['xhr-streaming'], ['xhr-polling']]) {
  const sock = new SockJS(process.argv[2] + '/echo', null, { transports })
  await new Promise((resolve, reject) => {
    sock.onopen = () => sock.send('ä'.repeat(20000))
    sock.onmessage = (e) => { console.log(`${sock.transport}: ${e.data.length} characters`); sock.send('leave') }
    sock.onclose = (e) => { console.log(`${e.code} ${e.reason}`); resolve() }
  })
}
process.exit(0)
