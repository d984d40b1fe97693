// The page in a real browser: on a phone, a tablet and a desk, light and dark, with the keyboard alone, and
// through a restart of the server.
//
//     node page.mjs [FOLDER for screenshots]

import assert from 'node:assert/strict';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { freePort, start, until } from './server.mjs';

const SIZES = { phone: { width: 360, height: 740 }, tablet: { width: 740, height: 1000 }, desk: { width: 1280, height: 900 } };
const folder = process.argv[2] ?? mkdtempSync(join(tmpdir(), 'observatory-'));
const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';

/** Opens the page. What it asks for goes through `feed`, which keeps the last report. */
async function open(browser, url, options) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  const feed = { errors: [], isDown: false, last: null, hold: null, twist: report => report };
  page.on('console', message => {
    // Chromium itself writes that a server is gone. Only that, and only while it is.
    if (message.type() === 'error' && !(feed.isDown && message.text().includes('ERR_CONNECTION'))) {
      feed.errors.push(message.text());
    }
  });
  page.on('pageerror', error => feed.errors.push(String(error)));
  page.on('dialog', dialog => { feed.errors.push(`dialog: ${dialog.message()}`); dialog.dismiss(); });
  await page.route('**/report.json', async route => {
    await feed.hold;
    try {
      const response = await route.fetch();
      feed.last = feed.twist(JSON.parse(await response.text()));
      await route.fulfill({ response, json: feed.last });
    } catch {
      await route.abort('connectionrefused');
    }
  });
  await page.goto(url);
  await shown(page);
  return { context, page, feed };
}

const rounds = page => page.evaluate(() => Number(document.body.dataset.rounds ?? 0));

async function shown(page) {
  const before = await rounds(page);
  await until('a new report on the page', async () => await rounds(page) > before);
}

/** Stops the reports, and returns the one that the page shows. */
async function freeze({ page, feed }) {
  let release;
  feed.hold = new Promise(done => { release = done; });
  // One that was under way may still come.
  let before;
  do {
    before = await rounds(page);
    await page.waitForTimeout(300);
  } while (await rounds(page) !== before);
  return { report: feed.last, thaw: () => { feed.hold = null; release(); } };
}

function bytes(value) {
  if (value < 1024) return `${value} B`;
  const power = Math.min(4, Math.floor(Math.log2(value) / 10));
  return `${(value / 1024 ** power).toFixed(1)} ${['B', 'KiB', 'MiB', 'GiB', 'TiB'][power]}`;
}

const count = value => String(value).replace(/\B(?=(\d{3})+$)/g, ',');

/** What the page shows is the report: every row of every table, to the byte, in text and as a value. */
async function assertEqual(page, report) {
  const seen = await page.evaluate(() => {
    const cell = td => {
      const data = td.querySelector('data');
      return data ? { value: Number(data.value), text: data.textContent } : { text: td.textContent };
    };
    const tables = {};
    for (const id of ['orphans', 'refusals', 'observed', 'sites', 'oldest', 'peers', 'classes', 'connections', 'transient']) {
      tables[id] = [...document.querySelectorAll(`#${id} tbody tr`)].map(tr => [...tr.cells].map(cell));
    }
    const memory = Object.fromEntries([...document.querySelectorAll('#memory dd')].map(dd => [dd.id.slice(2), cell(dd)]));
    const bars = id => [...document.querySelectorAll(`#${id} .bars li, #${id}.bars li`)]
      .map(li => [...li.querySelectorAll('data')].map(data => Number(data.value)));
    return {
      governor: document.getElementById('governor').textContent,
      tables, memory,
      budgets: bars('budgets').concat(bars('unused')),
      bottleneck: bars('bottleneck')[0],
      advice: document.querySelector('#bottleneck .note').textContent,
    };
  });
  assert.equal(seen.governor, report.governor);
  assert.equal(seen.advice, report.bottleneck.advice);
  const { usage, limit, utilization } = report.bottleneck;
  assert.deepEqual(seen.bottleneck, [usage, limit, utilization]);
  assert.deepEqual(Object.keys(seen.memory), Object.keys(seen.memory).filter(key => key in report.memory));
  assert.equal(Object.keys(seen.memory).length, Object.keys(report.memory).length);
  for (const [key, value] of Object.entries(report.memory)) {
    assert.deepEqual(seen.memory[key], { value, text: bytes(value) }, key);
  }
  const scopes = report.scopes.map(row => row.limit === null ? [row.usage] : [row.usage, row.limit, row.utilization]);
  assert.deepEqual(seen.budgets.filter(row => row.length).map(String).sort(), scopes.map(String).sort());

  const b = value => ({ value, text: bytes(value) }), n = value => ({ value, text: count(value) });
  const t = text => ({ text: text ?? '–' }), words = text => t(text.replaceAll('_', ' '));
  const orphan = row => t(row.orphaned ? 'orphan' : 'in use');
  const age = 'age';
  const group = row => [t(row.name), b(row.bytes), n(row.connections), n(row.streams)];
  const connection = row => [t(`#${row.id}`), t(row.peer), t(row.remote), b(row.bytes), n(row.streams), age,
    t(row.site), t(row.closed ? 'closed' : 'open')];
  const site = row => [t(row.site), t(row.kind), n(row.count), b(row.bytes), age];
  const oldest = row => [t(row.site), t(row.kind), t(row.connection === null ? null : `#${row.connection}`), b(row.bytes), age, orphan(row)];
  const refusal = row => [words(row.scope), words(row.resource), words(row.reason), n(row.count)];
  const expected = {
    orphans: report.sites.filter(row => row.orphaned).map(site),
    refusals: report.refusals.map(refusal),
    observed: report.observed.map(refusal),
    sites: report.sites.map(row => [...site(row), orphan(row)]),
    oldest: report.oldest.map(oldest),
    peers: report.peers.map(group),
    classes: report.classes.map(group),
    connections: report.connections.map(connection),
    transient: report.transient.map(connection),
  };
  const ages = { sites: 'oldest_seconds', oldest: 'oldest_seconds', connections: 'age_seconds', transient: 'age_seconds' };
  for (const [id, rows] of Object.entries(expected)) {
    const orphaned = report.sites.filter(row => row.orphaned);
    rows.forEach((row, index) => row.forEach((cell, column) => {
      if (cell !== age) return;
      const from = id === 'orphans' ? orphaned[index].oldest_seconds : report[id][index][ages[id]];
      // The text is rounded; the exact value stands beside it.
      assert.equal(seen.tables[id][index]?.[column]?.value, from, `${id}, row ${index}`);
      row[column] = seen.tables[id][index][column];
    }));
    assert.deepEqual(seen.tables[id], rows, id);
  }
}

/** A report as it would be if the server escaped nothing. */
function hostile(report) {
  const name = `<img src=x onerror="alert(1)"></table><script>alert(2)</script>&amp;\u202e\n\u0000${'x'.repeat(255)}`;
  const named = rows => rows.map(row => ({ ...row, name, peer: name, remote: name, site: name }));
  for (const part of ['peers', 'classes', 'connections', 'transient', 'sites', 'oldest']) report[part] = named(report[part]);
  return { ...report, governor: name, bottleneck: { ...report.bottleneck, name, advice: name } };
}

/** Nothing is cut off at the side, and nothing hides behind the edge. */
async function assertFits(page) {
  const [wide, view] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(wide <= view, `the page is ${wide} wide in a window of ${view}`);
}

/** Tab alone comes by all that can be used or scrolled, each visibly. */
async function assertKeyboard(page) {
  await page.evaluate(() => { document.activeElement.blur(); window.scrollTo(0, 0); });
  const wanted = await page.evaluate(() =>
    [...document.querySelectorAll('a, button, summary, .scroll[tabindex]')].map((element, index) => (element.dataset.tab = index)));
  const reached = new Set();
  for (let step = 0; step < wanted.length + 3; step++) {
    await page.keyboard.press('Tab');
    const [tab, outline] = await page.evaluate(() => [document.activeElement.dataset.tab, getComputedStyle(document.activeElement).outlineWidth]);
    if (tab === undefined) continue;
    assert.notEqual(outline, '0px', `element ${tab} has the focus and does not show it`);
    reached.add(Number(tab));
  }
  assert.deepEqual([...reached].sort((a, b) => a - b), wanted);

  await page.focus('summary');
  await page.keyboard.press('Enter');
  assert.equal(await page.evaluate(() => document.querySelector('details').open), true);
  await page.focus('#pause');
  await page.keyboard.press('Enter');
  const before = await rounds(page);
  await page.waitForTimeout(2500);
  assert.equal(await rounds(page), before, 'paused');
  assert.match(await page.textContent('#state'), /^Paused/);
  await page.keyboard.press('Enter');
  await shown(page);
  // A new report takes the focus from nothing.
  assert.equal(await page.evaluate(() => document.activeElement.id), 'pause');
}

/** Text stands out from what is behind it: 4.5 to 1, as WCAG asks. */
async function assertContrast(page) {
  const worst = await page.evaluate(() => {
    const numbers = text => text.match(/[\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(part => part / 255)
      .map(part => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
      .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
    const behind = element => {
      for (let up = element; up; up = up.parentElement) {
        const colour = getComputedStyle(up).backgroundColor;
        if (!/, 0\)$/.test(colour) && colour !== 'transparent') return numbers(colour);
      }
      return [255, 255, 255];
    };
    let worst = [21, ''];
    for (const element of document.querySelectorAll('body *')) {
      const text = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
      if (!text || !element.checkVisibility()) continue;
      const [a, b] = [light(numbers(getComputedStyle(element).color)), light(behind(element))].sort((x, y) => y - x);
      const ratio = (a + 0.05) / (b + 0.05);
      if (ratio < worst[0]) worst = [ratio, element.outerHTML.slice(0, 80)];
    }
    return worst;
  });
  assert.ok(worst[0] >= 4.5, `contrast of ${worst}`);
}

const port = await freePort();
let server = await start(port, '--leak', 'detached-bytes');
const browser = await chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-gpu'] });
try {
  for (const [size, viewport] of Object.entries(SIZES)) {
    for (const colorScheme of ['light', 'dark']) {
      const opened = await open(browser, server.url, { viewport, colorScheme, deviceScaleFactor: 1 });
      const { page, feed, context } = opened;
      await until('a hostile name and a line in the chart',
        async () => await rounds(page) > 5 && feed.last.peers.some(row => row.name.startsWith('<img')), 60);
      const { report, thaw } = await freeze(opened);
      await assertEqual(page, report);
      await assertFits(page);
      await assertContrast(page);
      assert.equal(await page.evaluate(() => document.querySelectorAll('main img').length), 0);
      await page.screenshot({ path: join(folder, `${size}-${colorScheme}.png`), fullPage: true });
      for (const [part, top] of [['top', 0], ['middle', 1600], ['lower', 2400]]) {
        await page.evaluate(y => window.scrollTo(0, y), top);
        await page.screenshot({ path: join(folder, `${size}-${colorScheme}-${part}.png`) });
      }
      thaw();
      await assertKeyboard(page);

      feed.twist = hostile;
      await shown(page);
      const twisted = await freeze(opened);
      await assertEqual(page, twisted.report);
      await assertFits(page);
      assert.equal(await page.evaluate(() => document.querySelectorAll('main img, main script').length), 0);
      feed.twist = report => report;
      twisted.thaw();

      feed.isDown = true;
      await server.stop();
      await until('the page says that the server is gone',
        async () => /^No report from the server since/.test(await page.textContent('#state')));
      await page.screenshot({ path: join(folder, `${size}-${colorScheme}-lost.png`) });
      server = await start(port, '--leak', 'detached-bytes');
      await until('the page is live again', async () => /^Live again/.test(await page.textContent('#state')));
      feed.isDown = false;
      await shown(page);
      const again = await freeze(opened);
      await assertEqual(page, again.report);
      again.thaw();

      assert.deepEqual(feed.errors, []);
      await context.close();
      console.log(`${size}, ${colorScheme}: equal to the report, reached by keyboard, back after a restart`);
    }
  }
} finally {
  await browser.close();
  await server.stop();
}
console.log(`screenshots in ${folder}`);
