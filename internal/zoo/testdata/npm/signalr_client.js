// SignalR's client: https://learn.microsoft.com/aspnet/core/signalr/javascript-client
import { HubConnectionBuilder, LogLevel } from '@microsoft/signalr'
import { guest } from './guest.js'

await guest(async (url, stay) => {
  const builder = new HubConnectionBuilder().withUrl(url + '/hub').configureLogging(LogLevel.None)
  const hub = (stay ? builder.withAutomaticReconnect() : builder).build()
  const gone = new Promise((resolve) => hub.onclose((e) => resolve(e?.message ?? 'closed')))
  hub.on('Tell', () => {})
  await hub.start()
  return {
    say: async (size) => {
      const sent = 'ä'.repeat(size)
      if (await hub.invoke('Tell', sent) !== sent) throw new Error('another text')
    },
    leave: () => hub.send('leave'),
    close: () => hub.stop(),
    gone
  }
})
