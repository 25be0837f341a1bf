// Imports files as ipfs-unixfs-importer does. Standard input: {profile, wrap, files: [{path, source | text}], car}.
// Standard output: {root, size}; with `car` (a path) every block is written there.
import { createReadStream, createWriteStream } from 'node:fs'
import { text } from 'node:stream/consumers'
import { pipeline } from 'node:stream/promises'
import { CarWriter } from '@ipld/car'
import { BlackHoleBlockstore } from 'blockstore-core/black-hole'
import { importer } from 'ipfs-unixfs-importer'
import { fixedSize } from 'ipfs-unixfs-importer/chunker'
import { balanced } from 'ipfs-unixfs-importer/layout'

const PROFILES = {
  'unixfs-v1-2025': () => ({ profile: 'unixfs-v1-2025' }),
  // What `ipfs add --cid-version=1` does.
  'kubo-v1': () => ({
    cidVersion: 1,
    rawLeaves: true,
    chunker: fixedSize({ chunkSize: 262144 }),
    layout: balanced({ maxChildrenPerNode: 174 }),
    shardSplitStrategy: 'links-bytes',
    fieldOrder: 'links-first'
  }),
  // What `ipfs add` does without options, but with CIDs of version 1: leaves are dag-pb blocks.
  'wrapped-leaves': () => ({
    cidVersion: 1,
    rawLeaves: false,
    chunker: fixedSize({ chunkSize: 262144 }),
    layout: balanced({ maxChildrenPerNode: 174 }),
    shardSplitStrategy: 'links-bytes',
    fieldOrder: 'links-first'
  }),
  'unixfs-v0-2015': () => ({ profile: 'unixfs-v0-2015' })
}

const asked = JSON.parse(await text(process.stdin))
const candidates = asked.files.map((file) => ({
  path: file.path,
  content: file.source === undefined ? new TextEncoder().encode(file.text) : createReadStream(file.source)
}))
// The blockstores of blockstore-core forget the codec of a CID.
const kept = new Map()
const keeper = { put: (cid, bytes) => kept.set(cid.toString(), { cid, bytes }) }
const blocks = asked.car ? keeper : new BlackHoleBlockstore()
const options = { ...PROFILES[asked.profile](), wrapWithDirectory: asked.wrap ?? false }
let root
for await (const entry of importer(candidates, blocks, options)) {
  root = entry
}
if (asked.car) {
  const { writer, out } = CarWriter.create([root.cid])
  const written = pipeline(out, createWriteStream(asked.car))
  for (const block of kept.values()) {
    await writer.put(block)
  }
  await writer.close()
  await written
}
console.log(JSON.stringify({ root: root.cid.toString(), size: Number(root.size) }))
