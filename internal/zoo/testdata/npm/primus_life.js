// Primus's client, made by its server's options.
import Primus from 'primus'

const Socket = Primus.createSocket({ transformer: 'websockets' })
const socket = new Socket(process.argv[2])
socket.on('open', () => socket.write({ text: 'ä'.repeat(1000) }))
socket.on('data', (data) => { console.log(`${data.text.length} characters`); socket.write('leave') })
socket.on('end', () => { console.log('ended'); process.exit(0) })
