// Reads a CAR as @ipld/car and ipfs-unixfs-exporter do. Standard input: {car, folder}.
// Standard output: {root, entries: [{path, cid, type, size}]}; the bytes of file N of `entries` go to `folder`/N.
import { createReadStream, createWriteStream } from 'node:fs'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { pipeline } from 'node:stream/promises'
import { CarBlockIterator } from '@ipld/car'
import { MemoryBlockstore } from 'blockstore-core/memory'
import { exporter, recursive } from 'ipfs-unixfs-exporter'
import { sha256 } from 'multiformats/hashes/sha2'

const asked = JSON.parse(await text(process.stdin))
const archive = await CarBlockIterator.fromIterable(createReadStream(asked.car))
const blocks = new MemoryBlockstore()
for await (const { cid, bytes } of archive) {
  const digest = await sha256.digest(bytes)
  if (Buffer.compare(digest.bytes, cid.multihash.bytes) !== 0) {
    throw new Error(`The bytes of ${cid} are not that block.`)
  }
  await blocks.put(cid, bytes)
}
const [root] = await archive.getRoots()
const entries = []
for await (const { path, cid } of recursive(root, blocks)) {
  const entry = await exporter(cid, blocks)
  if (entry.type === 'file' || entry.type === 'raw') {
    await pipeline(entry.content(), createWriteStream(join(asked.folder, String(entries.length))))
  }
  entries.push({ path, cid: cid.toString(), type: entry.type, size: Number(entry.size) })
}
console.log(JSON.stringify({ root: root.toString(), entries }))
