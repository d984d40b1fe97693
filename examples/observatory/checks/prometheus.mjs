// A real Prometheus scrapes the server each second while it is under load and leaks. Afterwards, by
// Prometheus' own API, all adds up to the byte and no counter ever went back.

import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freePort, start, until } from './server.mjs';

const LOAD_SECONDS = 16;
// So many that some 50 connections end between two scrapes.
const CLIENTS = 320;
const here = path => new URL(`../${path}`, import.meta.url).pathname;

const folder = mkdtempSync(join(tmpdir(), 'prometheus-'));
const server = await start(await freePort(), '--load-seconds', LOAD_SECONDS, '--leak', 'detached-bytes',
  '--node-type', 'gateway', '--clients', CLIENTS);
const target = server.url.replace('http://', '');
const port = await freePort();
writeFileSync(join(folder, 'prometheus.yml'), JSON.stringify({
  global: { scrape_interval: '1s', scrape_timeout: '1s', evaluation_interval: '1s' },
  rule_files: [here('alerts.yml')],
  scrape_configs: [{ job_name: 'leasehold', static_configs: [{ targets: [target] }] }],
}));
const prometheus = spawn('prometheus', [
  `--config.file=${folder}/prometheus.yml`, `--storage.tsdb.path=${folder}/data`,
  `--web.listen-address=127.0.0.1:${port}`, '--log.level=error',
], { stdio: ['ignore', 'ignore', 'inherit'] });
process.once('exit', () => prometheus.kill('SIGKILL'));

async function api(path, parameters = {}) {
  const response = await fetch(`http://127.0.0.1:${port}/api/v1/${path}?${new URLSearchParams(parameters)}`);
  const { status, data, error } = await response.json();
  assert.equal(status, 'success', `${JSON.stringify(parameters)}: ${error}`);
  return data;
}

/** Series of an instant query: their labels, and the value as a number. */
async function query(expression) {
  const { result } = await api('query', { query: expression });
  return result.map(({ metric, value }) => ({ labels: metric, value: Number(value[1]) }));
}

async function number(expression) {
  const found = await query(expression);
  assert.equal(found.length, 1, `${expression} has ${found.length} values`);
  return found[0].value;
}

/** Every expression of the dashboard, with a value for each variable. */
function panels() {
  const dashboard = JSON.parse(readFileSync(here('grafana.json'), 'utf8'));
  return dashboard.panels.flatMap(panel => (panel.targets ?? []).map(({ expr }) => ({
    title: panel.title,
    expr: expr.replaceAll(/\$(job|instance|governor)/g, '.*').replaceAll('$__rate_interval', '8s'),
  })));
}

try {
  await until('Prometheus scrapes', async () => {
    try {
      return (await query('leasehold_admissions_total')).length > 0;
    } catch (error) {
      if (error instanceof assert.AssertionError) throw error;
      return false;
    }
  });

  const scrape = await (await fetch(`${server.url}/metrics`)).text();
  const lint = spawnSync('promtool', ['check', 'metrics'], { input: scrape, encoding: 'utf8' });
  assert.equal(lint.status, 0, `promtool check metrics: ${lint.stdout}${lint.stderr}`);
  assert.equal(lint.stdout + lint.stderr, '');

  // Only with some scrapes there are rates; and what was refused takes a moment to come about.
  for (const { title, expr } of panels()) {
    await until(`the panel "${title}" shows nothing: ${expr}`, async () => (await query(expr)).length > 0, 14);
  }
  console.log(`${panels().length} expressions of the dashboard have values`);

  await until('the load has ended', async () => (await query('leasehold:connections == 0')).length > 0, 60);
  // Two scrapes of the rest.
  await new Promise(done => setTimeout(done, 3000));

  const scrapes = await number('count_over_time(up[5m])');
  assert.ok(scrapes >= 10, `only ${scrapes} scrapes`);
  assert.equal(await number('min_over_time(up[5m])'), 1, 'a scrape failed');

  const leased = await query('leasehold_leased_bytes_total');
  assert.equal(leased.length, 6, 'five sizes and large ones');
  for (const { labels, value } of leased) assert.ok(value > 0, `nothing of size ${labels.size} was leased`);
  const rest = await query('leasehold_leased_bytes_total - leasehold_returned_bytes_total - leasehold_outstanding_bytes');
  assert.equal(rest.length, leased.length);
  for (const { labels, value } of rest) assert.equal(value, 0, `size ${labels.size}`);
  const outstanding = await number('sum(leasehold_outstanding_bytes)');
  assert.ok(outstanding > 0, 'the leak is still there');
  assert.equal(await number('leasehold_orphaned_bytes'), outstanding);
  assert.equal(await number('leasehold_detached_bytes'), outstanding);
  assert.equal(await number('sum(leasehold_idle_bytes)') + await number('leasehold_reserved_bytes'), 0);

  const { memory, ...report } = await (await fetch(`${server.url}/report.json`)).json();
  const sum = family => number(`sum(leasehold_${family})`);
  for (const family of ['leased_bytes_total', 'returned_bytes_total', 'outstanding_bytes', 'idle_bytes',
    'reserved_bytes', 'detached_bytes', 'orphaned_bytes']) {
    assert.equal(await sum(family), memory[family], family);
  }
  const refused = rows => rows.reduce((total, row) => total + row.count, 0);
  assert.equal(await sum('refusals_total'), refused(report.refusals));
  assert.equal(await sum('observed_refusals_total'), refused(report.observed));
  // All connections have ended, and each was counted once.
  const ended = await number('leasehold_connection_seconds_count');
  assert.equal(ended, await number('leasehold_admissions_total'));
  assert.ok(ended >= 30 * scrapes, `only ${ended} connections ended`);
  assert.equal(ended, await number('leasehold_connection_peak_bytes_count'));

  const families = await query('count by (__name__) ({__name__=~"leasehold_.*(_total|_bucket|_sum|_count)"})');
  const resets = (await Promise.all(families.map(({ labels }) => query(`resets(${labels.__name__}[5m])`)))).flat();
  assert.ok(resets.length > 30, `only ${resets.length} counters`);
  for (const { labels, value } of resets) assert.equal(value, 0, `${JSON.stringify(labels)} went back`);

  const { groups } = await api('rules');
  for (const rule of groups.flatMap(group => group.rules)) assert.equal(rule.health, 'ok', rule.name);
  const pending = groups.flatMap(group => group.rules).filter(rule => rule.state === 'pending' || rule.state === 'firing');
  assert.ok(pending.some(rule => rule.name === 'LeaseholdHeldWithoutConnections'));

  const megabytes = leased.reduce((total, { value }) => total + value, 0) / 2 ** 20;
  console.log(`${scrapes} scrapes, ${ended} connections, ${megabytes.toFixed(0)} MiB leased, ${outstanding} bytes outstanding: ` +
    `equal to the byte, and ${resets.length} counters never went back`);
} finally {
  const ended = new Promise(done => prometheus.once('exit', done));
  prometheus.kill('SIGKILL');
  await ended;
  await server.stop();
  rmSync(folder, { recursive: true, force: true });
}
