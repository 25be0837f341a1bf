// A Helia node that is asked by JSON lines on standard input (see json_lines.py) and ends when that does.
//
// It listens on loopback only and knows nobody: blocks come from peers it was told to dial (bitswap) and from the
// gateways named at its start (trustless gateway over HTTP, each block checked by Helia itself). Nothing else routes.

import { createReadStream, createWriteStream } from 'node:fs'
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { withBitswap } from '@helia/bitswap'
import { car } from '@helia/car'
import { withHTTP } from '@helia/http'
import { withLibp2pLight } from '@helia/libp2p'
import { unixfs } from '@helia/unixfs'
import { CarReader } from '@ipld/car'
import { identify } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createHeliaLight } from 'helia'
import { fixedSize } from 'ipfs-unixfs-importer/chunker'
import { balanced } from 'ipfs-unixfs-importer/layout'
import { CID } from 'multiformats/cid'
import { sha256 } from 'multiformats/hashes/sha2'

let helia, files, cars, server

const methods = {
  async start ({ gateways = [] }) {
    const light = createHeliaLight()
    const withNetwork = withLibp2pLight(light, {
      addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
      transports: [tcp()],
      connectionEncrypters: [noise()],
      streamMuxers: [yamux()],
      services: { identify: identify() }
    })
    const http = { delegatedRouters: [], recursiveGateways: gateways, allowLocal: true, allowInsecure: true }
    helia = withBitswap(withHTTP(withNetwork, http))
    await helia.start()
    files = unixfs(helia)
    cars = car(helia)
    return { addresses: helia.libp2p.getMultiaddrs().map(String) }
  },

  // A file, or a folder with what is in it. Options are the importer's, with chunkBytes and maxLinks in place of functions.
  async add ({ path, folder, options: { chunkBytes = 1048576, maxLinks = 1024, ...options } }) {
    const importing = {
      ...options,
      chunker: fixedSize({ chunkSize: chunkBytes }),
      layout: balanced({ maxChildrenPerNode: maxLinks })
    }
    const candidates = folder ? candidatesUnder(path, 'root') : [{ content: createReadStream(path) }]
    let last
    for await (const entry of files.addAll(candidates, importing)) {
      last = entry
    }
    return last.cid.toString()
  },

  async get ({ cid, into, within }) {
    await write(CID.parse(cid), into, within)
  },

  async names ({ cid, within }) {
    const names = []
    for await (const entry of files.ls(CID.parse(cid), within)) {
      names.push(entry.name)
    }
    return names
  },

  async has ({ cid }) {
    return helia.blockstore.has(CID.parse(cid))
  },

  async put_block ({ cid, path }) {
    const bytes = new Uint8Array(await readFile(path))
    await check(CID.parse(cid), bytes)
    await helia.blockstore.put(CID.parse(cid), bytes)
  },

  async get_block ({ cid, into, within }) {
    await writeFile(into, await block(CID.parse(cid), within))
  },

  // Neither @ipld/car nor @helia/car hashes what it reads, so it is done here.
  async import_car ({ path }) {
    const reader = await CarReader.fromBytes(new Uint8Array(await readFile(path)))
    let blocks = 0
    for await (const { cid, bytes } of reader.blocks()) {
      await check(cid, bytes)
      blocks += 1
    }
    await cars.import(reader)
    return { roots: (await reader.getRoots()).map(String), blocks }
  },

  async export_car ({ cid, into, within }) {
    await pipeline(Readable.from(cars.export(CID.parse(cid), within)), createWriteStream(into))
  },

  async dial ({ address, within }) {
    await helia.libp2p.dial(multiaddr(address), within)
  },

  async peers () {
    return helia.libp2p.getConnections().map(connection => connection.remoteAddr.toString())
  },

  // Blocks and CARs as Helia gives them, at the two addresses that a trustless gateway has.
  async serve () {
    server = createServer((request, response) => {
      answer(new URL(request.url, 'http://127.0.0.1'), response).catch(error => {
        response.writeHead(error.name === 'NotFoundError' ? 404 : 500)
        response.end(error.message)
      })
    })
    await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))
    return `http://127.0.0.1:${server.address().port}`
  }
}

async function answer (url, response) {
  const cid = CID.parse(url.pathname.replace('/ipfs/', ''))
  const within = { signal: AbortSignal.timeout(30000) }
  if (url.searchParams.get('format') === 'car') {
    response.writeHead(200, { 'Content-Type': 'application/vnd.ipld.car; version=1' })
    await pipeline(Readable.from(cars.export(cid, within)), response)
  } else {
    const bytes = await block(cid, within)
    response.writeHead(200, { 'Content-Type': 'application/vnd.ipld.raw', 'Content-Length': bytes.length })
    response.end(bytes)
  }
}

async function * candidatesUnder (folder, path) {
  yield { path }
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const [from, to] = [join(folder, entry.name), `${path}/${entry.name}`]
    if (entry.isDirectory()) {
      yield * candidatesUnder(from, to)
    } else {
      yield { path: to, content: createReadStream(from) }
    }
  }
}

async function write (cid, into, within) {
  const { type } = await files.stat(cid, within)
  if (type === 'directory') {
    await mkdir(into)
    for await (const entry of files.ls(cid, within)) {
      await write(entry.cid, join(into, entry.name), within)
    }
  } else {
    await pipeline(Readable.from(files.cat(cid, within)), createWriteStream(into))
  }
}

async function block (cid, within) {
  const parts = []
  for await (const part of helia.blockstore.get(cid, within)) {
    parts.push(part)
  }
  return Buffer.concat(parts)
}

async function check (cid, bytes) {
  const digest = await sha256.digest(bytes)
  if (cid.multihash.code !== digest.code || Buffer.compare(cid.multihash.digest, digest.digest) !== 0) {
    throw new Error(`The block does not have the hash of ${cid}`)
  }
}

async function reply ({ id, method, arguments: { within_s: withinS, ...given } }) {
  try {
    const within = { signal: AbortSignal.timeout(withinS * 1000) }
    return { id, result: (await methods[method]({ ...given, within })) ?? null }
  } catch (error) {
    return { id, error: told(error) }
  }
}

function told (error) {
  const below = [...(error.errors ?? []), ...(error.cause ? [error.cause] : [])].map(told)
  return `${error.name}: ${error.message}${below.length ? ` (${below.join('; ')})` : ''}`
}

for await (const line of createInterface({ input: process.stdin })) {
  reply(JSON.parse(line)).then(answered => process.stdout.write(JSON.stringify(answered) + '\n'))
}
server?.close()
server?.closeAllConnections()
await helia?.stop()
process.exit(0)
