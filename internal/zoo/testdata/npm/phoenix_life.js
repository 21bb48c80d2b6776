// Phoenix's client: https://hexdocs.pm/phoenix/js/
import { Socket } from 'phoenix'
import WebSocket from 'ws'

const socket = new Socket(process.argv[2].replace('http', 'ws') + '/socket', { transport: WebSocket, heartbeatIntervalMs: 100 })
socket.connect()
const channel = socket.channel('room:life', {})
const answered = (push) => new Promise((resolve, reject) => push.receive('ok', resolve).receive('error', reject).receive('timeout', reject))
const heard = (event) => new Promise((resolve) => channel.on(event, resolve))
await answered(channel.join())
console.log(`replied: ${(await answered(channel.push('echo', { text: 'ä'.repeat(50000) }))).text.length} characters`)
const shouted = heard('shout')
channel.push('shout', { text: 'to all' })
console.log(`heard: ${(await shouted).text}`)
const bytes = heard('bytes')
channel.push('bytes', new Uint8Array(1000).buffer)
console.log(`binary: ${(await bytes).byteLength} bytes`)
let beats = 0
socket.onMessage(({ topic }) => { if (topic === 'phoenix') beats++ })
while (beats < 3) await new Promise((resolve) => setTimeout(resolve, 20))
console.log('heartbeats are answered')
const closed = new Promise((resolve) => socket.onClose(resolve))
channel.push('leave', {})
const { code, reason } = await closed
console.log(`closed: ${code} ${reason}`)
socket.disconnect()
process.exit(0) // it would try again for a while
