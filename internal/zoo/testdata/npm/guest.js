// What is the same for all guests, the clients of one protocol.
//
//   visit URL          tries what the guest can, and prints "step: outcome"
//   silent MS URL…     is silent for a time at each URL, then sends something
//   stay URL…          connects to all, prints "up" and reconnects by itself
//
// connect(url, stay) connects as the library's documentation says. It reconnects
// by itself only if stay is true. It resolves, once messages can be exchanged, to
// an object with
//
//   open       what has been agreed on, as far as the library tells
//   say(size)  sends a message of this size, and resolves when it has come back
//   ping()     the protocol's own ping; optional, as is the next one
//   leave()    has the server end the connection
//   gone       a promise: how the connection ended
//   close()    ends it
//
// lives are functions of the URL that resolve to an outcome, by name.
export async function guest (connect, { sizes = [1, 200, 100000], lives = {} } = {}) {
  const [mode, ...args] = process.argv.slice(2)
  const tell = (what, came) => console.log(`${what}: ${came}`)
  const connected = (url, stay) => within(connect(url, stay), 'connecting')
  if (mode === 'stay') {
    await Promise.all(args.map((url) => connected(url, true)))
    console.log('up')
    setInterval(() => {}, 1 << 30)
    return
  }
  if (mode === 'silent') {
    const [ms, ...urls] = args
    const all = await Promise.all(urls.map(async (url) => {
      const c = await connected(url, false)
      const gone = await Promise.race([c.gone, new Promise((resolve) => setTimeout(resolve, ms))])
      if (gone !== undefined) return `cut: ${gone}`
      await within(c.say(5), 'a message after the silence')
      return 'outlived'
    }))
    all.forEach((came, i) => tell(`silence ${i}`, came))
    process.exit(0)
  }
  const [url] = args
  let c = await connected(url, false)
  tell('open', c.open ?? 'yes')
  for (const size of sizes) await within(c.say(size), `a message of ${size}`)
  tell('messages', 'all come back')
  if (c.ping) tell('its ping', await within(c.ping(), 'a ping'))
  if (c.leave) {
    c.leave()
    tell('server closes', await within(c.gone, 'the end'))
    c = await connected(url, false)
  }
  c.close()
  tell('client closes', await within(c.gone, 'the end'))
  for (const [what, life] of Object.entries(lives)) tell(what, await within(life(url), what))
  process.exit(0)
}

// within rejects if a promise takes too long.
function within (promise, what) {
  return Promise.race([promise, new Promise((resolve, reject) => setTimeout(reject, 25000, new Error(`too slow: ${what}`)))])
}

// once resolves to the first argument of an event.
export function once (emitter, event) {
  return new Promise((resolve) => emitter.once(event, resolve))
}

// ws returns the URL for WebSockets of one for HTTP.
export function ws (url, path) {
  return url.replace(/^http/, 'ws') + path
}

// guestOfEcho is a guest with a browser's interface. open(url, stay) opens it.
export async function guestOfEcho (open) {
  await guest(async (url, stay) => {
    const socket = open(ws(url, '/'), stay)
    const event = (name) => new Promise((resolve) => socket.addEventListener(name, resolve, { once: true }))
    const gone = event('close').then(({ code, reason }) => `${code} ${reason}`)
    await event('open')
    return {
      open: socket.protocol,
      say: async (size) => {
        const back = event('message')
        const sent = 'ä'.repeat(size)
        socket.send(sent)
        if (`${(await back).data}` !== sent) throw new Error('another text')
      },
      leave: () => socket.send('leave'),
      close: () => socket.close(1000, 'bye'),
      gone
    }
  })
}
