// The data set of tests/dataset/run.sh: from CSV to rows, what an export must look like, and changes in transactions by a
// client that knows the protocol and nothing else.

import fs from "node:fs";
import net from "node:net";
import zlib from "node:zlib";

// ---------------------------------------------------------------------------------------------------------------------
// Rows. The key is the first address of the range, in hexadecimal digits, so that keys are in the order of addresses.

function fields(line) {
  const found = [];
  for (const part of line.matchAll(/(?:^|,)(?:"((?:[^"]|"")*)"|([^,]*))/g)) {
    found.push(part[1] === undefined ? part[2] : part[1].replaceAll('""', '"'));
  }
  return found;
}

const hex4 = (address) => address.split(".").map((byte) => Number(byte).toString(16).padStart(2, "0")).join("");

function hex6(address) {
  const [head, tail] = address.split("::").map((half) => (half ? half.split(":") : []));
  const groups = tail === undefined ? head : [...head, ...Array(8 - head.length - tail.length).fill("0"), ...tail];
  return groups.map((group) => group.padStart(4, "0")).join("");
}

function* rowsOf(file, family, hex) {
  for (const line of fs.readFileSync(file, "utf8").split("\n").filter(Boolean)) {
    const [start, end, asn, organisation] = fields(line);
    yield { key: `${family}/${hex(start)}`, value: { start, end, asn: Number(asn), organisation } };
  }
}

// Every so many rows one is changed.
const CHANGED_EVERY = 100;
const changed = (value) => ({ ...value, checked: true });
const counter = (value) => `checked/${value.asn % 10}`;

function read(file) {
  return fs.readFileSync(file, "utf8").split("\n").filter(Boolean).map((line) => JSON.parse(line));
}

// What an export gives: values are the text that they are stored as, rows are in the order of their keys.
function print(rows) {
  const text = rows.map(([key, value]) => JSON.stringify({ key, value }) + "\n");
  process.stdout.write(text.sort().join(""));
}

function expected(rows, withChanges) {
  const counts = new Map();
  const lines = rows.map(({ key, value }, at) => {
    if (!withChanges || at % CHANGED_EVERY !== 0) return [key, JSON.stringify(value)];
    counts.set(counter(value), (counts.get(counter(value)) ?? 0) + 1);
    return [key, JSON.stringify(changed(value))];
  });
  return [...lines, ...[...counts].map(([key, count]) => [key, String(count)])];
}

// ---------------------------------------------------------------------------------------------------------------------
// A client: preface, frames of 24 bytes and a payload, and the five requests that it needs.

const PREFACE = Buffer.from("5144420d0a1a0a01", "hex");
const [HELLO, WELCOME, REQUEST, RESPONSE, ERROR, GOAWAY] = [1, 2, 4, 5, 8, 14];
const [GET, PUT, BEGIN, COMMIT] = [0x10, 0x20, 0x30, 0x31];
const CONFLICT = 0x40;
const DEFAULT_KEYSPACE = 1;

function frame(kind, opcode, id, payload) {
  const header = Buffer.alloc(24);
  header.writeUInt32BE(payload.length, 0);
  header.writeUInt8(kind, 4);
  header.writeUInt16BE(opcode, 6);
  header.writeBigUInt64BE(BigInt(id), 8);
  header.writeUInt32BE(zlib.crc32(payload), 16);
  header.writeUInt32BE(zlib.crc32(header.subarray(0, 20)), 20);
  return Buffer.concat([header, payload]);
}

function u16(number) {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(number);
  return bytes;
}

function u32(number) {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(number);
  return bytes;
}

function u64(number) {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(number));
  return bytes;
}

const keyField = (key) => Buffer.concat([u16(Buffer.byteLength(key)), u32(DEFAULT_KEYSPACE), Buffer.from(key)]);
const valueField = (value) => Buffer.concat([u32(Buffer.byteLength(value)), Buffer.from(value)]);
const transactionTag = (id) => Buffer.concat([u16(0x8001), u32(8), u64(id)]);

class Connection {
  #socket;
  #waiting = new Map();
  #received = Buffer.alloc(0);
  #lastId = 0;

  static async open(address) {
    const [host, port] = address.split(":");
    const socket = net.connect(Number(port), host);
    socket.setNoDelay(true);
    const connection = new Connection();
    connection.#socket = socket;
    const greeted = new Promise((resolve, reject) => connection.#waiting.set(0, { resolve, reject }));
    const name = Buffer.from("dataset");
    const hello = Buffer.concat([Buffer.from([1, 1]), u32(0), u16(name.length), name, u16(0)]);
    socket.write(Buffer.concat([PREFACE, frame(HELLO, 0, 0, hello)]));
    let preface = PREFACE.length;
    socket.on("data", (data) => {
      const skip = Math.min(preface, data.length);
      preface -= skip;
      connection.#take(data.subarray(skip));
    });
    socket.on("error", (error) => connection.#fail(error));
    socket.on("close", () => connection.#fail(new Error("the connection was closed")));
    await greeted;
    return connection;
  }

  close() {
    this.#waiting.clear();
    this.#socket.end();
  }

  #fail(error) {
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }

  #take(data) {
    this.#received = Buffer.concat([this.#received, data]);
    while (this.#received.length >= 24) {
      const length = this.#received.readUInt32BE(0);
      if (this.#received.length < 24 + length) return;
      const header = this.#received.subarray(0, 24);
      const payload = this.#received.subarray(24, 24 + length);
      this.#received = this.#received.subarray(24 + length);
      if (zlib.crc32(header.subarray(0, 20)) !== header.readUInt32BE(20)) throw new Error("a header is damaged");
      if (zlib.crc32(payload) !== header.readUInt32BE(16)) throw new Error("a payload is damaged");
      this.#frame(header.readUInt8(4), Number(header.readBigUInt64BE(8)), payload);
    }
  }

  #frame(kind, id, payload) {
    if (kind === GOAWAY) this.#fail(new Error(`the server says goodbye: code ${payload.readUInt16BE(0)}`));
    if (![WELCOME, RESPONSE, ERROR].includes(kind)) return;
    const { resolve, reject } = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (kind === ERROR) reject(Object.assign(new Error("refused"), { code: payload.readUInt16BE(0) }));
    else resolve(Buffer.from(payload));
  }

  // Returns the id at once and a promise of the reply, so that requests can be sent without waiting.
  request(opcode, ...parts) {
    const id = ++this.#lastId;
    const reply = new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
    reply.catch(() => {});
    this.#socket.write(frame(REQUEST, opcode, id, Buffer.concat(parts)));
    return { id, reply };
  }

  async get(transaction, key) {
    const reply = await this.request(GET, keyField(key), transactionTag(transaction)).reply;
    const found = reply.readUInt8(8) === 1;
    return found ? reply.subarray(21, 21 + reply.readUInt32BE(17)).toString() : undefined;
  }

  put(transaction, key, value) {
    return this.request(PUT, keyField(key), valueField(value), transactionTag(transaction)).reply;
  }
}

// One row and one counter, read and written together: they cannot disagree.
async function change(connection, { key, value }) {
  for (let conflicts = 0; ; conflicts += 1) {
    const { id } = connection.request(BEGIN, Buffer.from([0]));
    try {
      const [row, count] = await Promise.all([connection.get(id, key), connection.get(id, counter(value))]);
      connection.put(id, key, JSON.stringify(changed(JSON.parse(row))));
      connection.put(id, counter(value), String(Number(count ?? 0) + 1));
      await connection.request(COMMIT, transactionTag(id)).reply;
      return conflicts;
    } catch (error) {
      if (error.code !== CONFLICT) throw error;
    }
  }
}

async function changeAll(address, rows) {
  const queue = rows.filter((_, at) => at % CHANGED_EVERY === 0);
  const total = queue.length;
  const began = performance.now();
  const workers = Array.from({ length: 4 }, async () => {
    const connection = await Connection.open(address);
    let conflicts = 0;
    for (let row = queue.pop(); row; row = queue.pop()) conflicts += await change(connection, row);
    connection.close();
    return conflicts;
  });
  const conflicts = (await Promise.all(workers)).reduce((sum, more) => sum + more, 0);
  const seconds = (performance.now() - began) / 1000;
  const rate = Math.round(total / seconds);
  console.log(`${total} transactions, ${conflicts} conflicts run again, in ${seconds.toFixed(2)} s (${rate} a second)`);
}

const [command, ...words] = process.argv.slice(2);
if (command === "convert") {
  const lines = [...rowsOf(words[0], 4, hex4), ...rowsOf(words[1], 6, hex6)].map((row) => JSON.stringify(row) + "\n");
  process.stdout.write(lines.join(""));
} else if (command === "expect") {
  print(expected(read(words[0]), false));
} else if (command === "expect-changed") {
  print(expected(read(words[0]), true));
} else if (command === "change") {
  await changeAll(words[0], read(words[1]));
} else {
  console.error("convert IPV4.csv IPV6.csv | expect ROWS | expect-changed ROWS | change ADDRESS ROWS");
  process.exit(2);
}
