// SignalR's client with its defaults: it negotiates by HTTP.
import { HubConnectionBuilder, LogLevel } from '@microsoft/signalr'

const hub = new HubConnectionBuilder().withUrl(process.argv[2] + '/hub').configureLogging(LogLevel.Error).build()
await hub.start()
const told = new Promise((resolve) => hub.on('Tell', resolve))
const back = await hub.invoke('Tell', 'ä'.repeat(50000))
console.log(`invoked: ${back.length}, told: ${(await told).length} characters`)
const items = []
await new Promise((resolve, reject) => hub.stream('Count', 4).subscribe({ next: (i) => items.push(i), complete: resolve, error: reject }))
console.log(`streamed: ${items.join(' ')}`)
const closed = new Promise((resolve) => hub.onclose(resolve))
await hub.send('leave')
console.log(`closed: ${(await closed)?.message}`)
