// Decodes blocks as @ipld/dag-pb and ipfs-unixfs do. Standard input: {blocks: [hex]}.
// Standard output: {nodes: [{links: [[cid, name, size]], data, type, size} | null]}; type is null without UnixFS data.
import { text } from 'node:stream/consumers'
import { decode } from '@ipld/dag-pb'
import { UnixFS } from 'ipfs-unixfs'

function read (block) {
  let node
  try {
    node = decode(new Uint8Array(Buffer.from(block, 'hex')))
  } catch {
    return null
  }
  const links = node.Links.map((link) => [link.Hash.toString(), link.Name ?? '', link.Tsize ?? 0])
  const data = node.Data === undefined ? null : Buffer.from(node.Data).toString('hex')
  try {
    const file = UnixFS.unmarshal(node.Data)
    return { links, data, type: file.type, size: file.fileSize().toString() }
  } catch {
    return { links, data, type: null, size: null }
  }
}

const asked = JSON.parse(await text(process.stdin))
console.log(JSON.stringify({ nodes: asked.blocks.map(read) }))
