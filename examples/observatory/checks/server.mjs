// Starts and stops the observatory for the checks.

import { spawn } from 'node:child_process';
import { createServer } from 'node:net';

const BINARY = new URL('../target/debug/observatory', import.meta.url).pathname;

/** A port that nothing listens on now. */
export async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise(done => server.once('listening', done));
  const { port } = server.address();
  await new Promise(done => server.close(done));
  return port;
}

/** A server on this port, which ends with this process or with `stop`. */
export async function start(port, ...options) {
  const child = spawn(BINARY, ['--listen', `127.0.0.1:${port}`, ...options], { stdio: ['ignore', 'pipe', 'inherit'] });
  const kill = () => child.kill('SIGKILL');
  process.once('exit', kill);
  let said = '';
  await new Promise((done, fail) => {
    child.stdout.on('data', text => { said += text; if (said.includes('Only this machine')) done(); });
    child.once('exit', status => fail(new Error(`the observatory ended with ${status}: ${said}`)));
  });
  child.removeAllListeners('exit');
  return {
    url: `http://127.0.0.1:${port}`,
    stop: async () => {
      process.removeListener('exit', kill);
      const ended = new Promise(done => child.once('exit', done));
      child.kill('SIGKILL');
      await ended;
    },
  };
}

/** Waits until `look` returns something, and returns that. */
export async function until(what, look, seconds = 30) {
  const end = Date.now() + 1000 * seconds;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) throw new Error(`${what}: not within ${seconds} s`);
    await new Promise(done => setTimeout(done, 100));
  }
}
