// mqtt.js over a WebSocket.
import mqtt from 'mqtt'

const url = process.argv[2].replace(/^http/, 'ws') + '/mqtt'
const client = await mqtt.connectAsync(url, { keepalive: 60 })
const got = []
client.on('message', (topic, payload) => got.push(`${topic} ${payload.length}`))
await client.subscribeAsync({ 'zoo/#': { qos: 2 } })
const big = Buffer.alloc(100000, 7)
await client.publishAsync('zoo/0', 'lion', { qos: 0 })
await client.publishAsync('zoo/1', 'tiger', { qos: 1 })
await client.publishAsync('zoo/2', big, { qos: 2 })
while (got.length < 3) await new Promise((resolve) => client.once('message', () => setImmediate(resolve)))
console.log(got.sort().join(', '))
const will = mqtt.connect(url, { will: { topic: 'zoo/will', payload: 'gone', qos: 1 } })
await new Promise((resolve) => will.once('connect', resolve))
const last = new Promise((resolve) => client.once('message', (topic, payload) => resolve(`${topic} ${payload}`)))
will.stream.destroy()
will.end(true)
console.log(`last will: ${await last}`)
await client.endAsync()
