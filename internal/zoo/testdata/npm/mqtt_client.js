// mqtt.js: https://github.com/mqttjs/MQTT.js#readme
import mqtt from 'mqtt'
import { guest, once, ws } from './guest.js'

await guest(async (url, stay) => {
  const to = ws(url, '/mqtt')
  const client = await mqtt.connectAsync(to, stay ? {} : { reconnectPeriod: 0 })
  const gone = once(client, 'close').then(() => 'closed')
  client.on('error', () => {}) // it reconnects after these
  const topic = `zoo/${client.options.clientId}`
  await client.subscribeAsync(topic, { qos: 2 })
  return {
    open: `MQTT ${client.options.protocolVersion}`,
    say: async (size) => {
      const back = new Promise((resolve) => client.once('message', (_, payload) => resolve(payload)))
      const sent = Buffer.alloc(size, 7)
      await client.publishAsync(topic, sent, { qos: 2 })
      if (!sent.equals(await back)) throw new Error('another payload')
    },
    ping: () => {
      client.sendPing()
      return new Promise((resolve) => client.on('packetreceive', ({ cmd }) => { if (cmd === 'pingresp') resolve(cmd) }))
    },
    leave: () => mqtt.connect(to, { clientId: client.options.clientId }), // the broker ends the older of two
    close: () => client.end(),
    gone
  }
})
