// node-postgres through the pooler. Each step prints "ok STEP" or "failed STEP: reason" on a line of its own.
'use strict';

const fs = require('fs');
const { pipeline } = require('stream/promises');
const { Readable, Writable } = require('stream');
const { Client, Pool, Query } = require('pg');
const copy = require('pg-copy-streams');
const assert = require('assert');

const settings = {
  host: '127.0.0.1',
  port: Number(process.env.E2E_PORT),
  user: process.env.E2E_USER,
  password: process.env.E2E_PASSWORD,
  database: process.env.E2E_DATABASE,
  // The certificate has only a CN, at which Node does not look: the authority is checked, the name is not.
  ssl: { ca: fs.readFileSync(process.env.E2E_CA, 'utf8'), checkServerIdentity: () => undefined },
  connectionTimeoutMillis: 15000,
  query_timeout: 60000,
};

async function withClient(action) {
  const client = new Client(settings);
  await client.connect();
  try {
    return await action(client);
  } finally {
    await client.end();
  }
}

async function waitFor(condition, what) {
  const deadline = Date.now() + 15000;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const steps = {
  connect: () => withClient(async (client) => {
    const { rows } = await client.query(
      'select current_user as name, ssl from pg_stat_ssl where pid = pg_backend_pid()');
    assert.deepStrictEqual(rows, [{ name: settings.user, ssl: true }]);
  }),

  ddl_dml: () => withClient(async (client) => {
    await client.query('drop table if exists made_by_node');
    await client.query('create table made_by_node (v int primary key, t text)');
    await client.query('begin');
    await client.query('insert into made_by_node values ($1, $2)', [1, 'one']);
    await client.query('commit');
    await client.query('begin');
    await client.query('insert into made_by_node values ($1, $2)', [2, 'two']);
    await client.query('rollback');
    const { rows } = await client.query('select * from made_by_node');
    assert.deepStrictEqual(rows, [{ v: 1, t: 'one' }]);
  }),

  copy_in_and_out: () => withClient(async (client) => {
    await client.query('truncate made_by_node');
    const lines = Array.from({ length: 5000 }, (_, n) => `${n}\t${'x'.repeat(50)}\n`);
    await pipeline(Readable.from(lines), client.query(copy.from('copy made_by_node from stdin')));
    let size = 0;
    const count = new Writable({ write(chunk, _encoding, done) { size += chunk.length; done(); } });
    await pipeline(client.query(copy.to('copy made_by_node to stdout')), count);
    assert.strictEqual(size, lines.join('').length);
  }),

  prepared: () => withClient(async (client) => {
    for (let n = 0; n < 20; n += 1) {
      const query = { name: 'by-name', text: 'select $1::int + 1 as v /* marker */', values: [n] };
      const { rows } = await client.query(query);
      assert.strictEqual(rows[0].v, n + 1);
    }
    await client.query('begin');
    await client.query({ name: 'by-name', text: 'select $1::int + 1 as v /* marker */', values: [1] });
    const { rows } = await client.query(
      "select count(*)::int as n from pg_prepared_statements where statement like '%marker */'");
    await client.query('commit');
    assert.ok(rows[0].n > 0, 'the statement is not prepared on the server');
  }),

  cancel: () => withClient((client) => withClient(async (watcher) => {
    let query;
    const ended = new Promise((resolve) => {
      query = new Query('select pg_sleep(60)', (error) => resolve(error || new Error('not cancelled')));
    });
    client.query(query);
    await waitFor(async () => (await watcher.query(
      "select 1 from pg_stat_activity where query = 'select pg_sleep(60)' and state = 'active'")).rowCount > 0,
    'the query runs');
    new Client(settings).cancel(client, query);
    const error = await ended;
    assert.strictEqual(error.code, '57014', error.message);
    assert.strictEqual((await client.query('select 1 as one')).rows[0].one, 1);
  })),

  error: () => withClient(async (client) => {
    await assert.rejects(client.query('select 1/0'), { code: '22012' });
    await assert.rejects(client.query('select $1::int / 0', [1]), { code: '22012' });
    await assert.rejects(client.query({ name: 'bad', text: 'select * from no_such_table' }), { code: '42P01' });
    assert.strictEqual((await client.query('select 1 as one')).rows[0].one, 1);
  }),

  large_result: () => withClient(async (client) => {
    const { rows } = await client.query("select repeat('x', 1000000) as t from generate_series(1, 100)");
    assert.strictEqual(rows.reduce((sum, row) => sum + row.t.length, 0), 100_000_000);
  }),

  pool: async () => {
    const pool = new Pool({ ...settings, max: 30 });
    const results = await Promise.all(Array.from({ length: 300 }, (_, n) => pool.query('select $1::int as v', [n])));
    results.forEach((result, n) => assert.strictEqual(result.rows[0].v, n));
    await pool.end();
  },
};

(async () => {
  for (const [name, step] of Object.entries(steps)) {
    try {
      await step();
      console.log(`ok ${name}`);
    } catch (error) {
      console.log(`failed ${name}: ${String(error.stack || error).replace(/\n/g, ' | ')}`);
    }
  }
  process.exit(0);
})();
