// webpack's development server: https://webpack.js.org/configuration/dev-server/
import webpack from 'webpack'
import WebpackDevServer from 'webpack-dev-server'

const [port, dir] = process.argv.slice(2)
const compiler = webpack({
  mode: 'development',
  context: dir,
  entry: './main.js',
  output: { path: dir + '/dist' },
  infrastructureLogging: { level: 'warn' }
})
const server = new WebpackDevServer({ host: '127.0.0.1', port, static: false, setupExitSignals: false }, compiler)
await server.start()
