// js-ipfs with its RPC API on loopback. Prints the API's base URL and ends when its standard input does.
//
// Its repository is in memory and its network is never started: it answers from its own blocks, at once, and speaks to
// nobody.

import { MemoryBlockstore } from 'blockstore-core/memory'
import { MemoryDatastore } from 'datastore-core/memory'
import { create } from 'ipfs-core'
import { HttpApi } from 'ipfs-http-server'
import { createRepo } from 'ipfs-repo'
import { MemoryLock } from 'ipfs-repo/locks/memory'

const stores = {
  blocks: new MemoryBlockstore(),
  datastore: new MemoryDatastore(),
  keys: new MemoryDatastore(),
  pins: new MemoryDatastore(),
  root: new MemoryDatastore()
}
let ipfs
const codecOf = codeOrName => ipfs.codecs.getCodec(codeOrName) // asked for when a pin is walked
const repo = createRepo('memory', codecOf, stores, { autoMigrate: false, repoLock: MemoryLock })

ipfs = await create({
  repo,
  silent: true,
  start: false,
  init: { algorithm: 'Ed25519', emptyRepo: true },
  preload: { enabled: false },
  config: { Addresses: { Swarm: [], API: '/ip4/127.0.0.1/tcp/0', Delegates: [] }, Bootstrap: [] }
})
const api = new HttpApi(ipfs)
await api.start()
process.stdout.write(`http://127.0.0.1:${api._apiServers[0].info.port}\n`)

for await (const _ of process.stdin) { /* nothing is asked here */ }
await api.stop()
await ipfs.stop()
process.exit(0)
