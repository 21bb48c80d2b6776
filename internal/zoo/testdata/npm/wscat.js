// Runs wscat. Where its output is no terminal it shows only what comes in.
import { spawn } from 'node:child_process'

const [url, root] = process.argv.slice(2)
const origin = url.replace(/^ws/, 'http').replace(/\/zoo$/, '')
const wscat = (path, ...more) => new Promise((resolve) => {
  const p = spawn(process.execPath, [new URL('node_modules/wscat/bin/wscat', import.meta.url).pathname,
    '--no-color', '--ca', root, '-o', origin, '-s', 'zoo.v1', '-s', 'zoo.v2', '-c', url.replace(/zoo$/, path), ...more],
  { stdio: ['pipe', 'pipe', 'pipe'] })
  let shown = ''
  p.stdout.on('data', (d) => { shown += d })
  p.stderr.on('data', (d) => { shown += d })
  p.on('close', (code) => resolve([shown.replace(/\x1b\[[0-9;]*[A-Za-z]|\r/g, ''), code]))
})

const large = 'x'.repeat(70000)
let [shown] = await wscat('zoo', '-x', 'small', '-x', large, '-x', 'leave', '-w', '20')
if (!shown.includes('small') || !shown.includes(large)) throw new Error(`it shows ${shown}`)
console.log('messages: all come back');
[shown] = await wscat('zoo', '-x', 'small', '-w', '0.5')
console.log(`client closes: after ${/small/.exec(shown)?.[0]}`);
[shown] = await wscat('private')
console.log(`without login: ${shown.trim()}`)
