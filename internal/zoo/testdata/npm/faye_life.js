// Faye's client, which asks by HTTP what the server can.
import faye from 'faye'

const client = new faye.Client(process.argv[2] + '/faye')
const got = []
const done = new Promise((resolve) => {
  client.subscribe('/zoo/*', (message) => {
    got.push(message.text.length)
    if (got.length === 2) resolve()
  }).then(async () => {
    await client.publish('/zoo/a', { text: 'lion' })
    await client.publish('/zoo/b', { text: 'ä'.repeat(100000) })
  })
})
await done
const transport = client._dispatcher._transport.connectionType
console.log(`${transport}, ${got.join(' and ')} characters published and received`)
client.on('transport:down', () => {
  console.log('down')
  process.exit(0)
})
client.disconnect()
