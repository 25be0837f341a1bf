"""DAGs in memory, built by the node's own codecs, for tests that need real blocks and no disk."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from prsm.data_layer.codec.car import car_header, car_section
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.directories import Built, build_tree
from prsm.data_layer.codec.unixfs import Child, Kind, encode_file, leaf_envelope
from prsm.data_layer.codec.unixfs_dag import FileDagBuilder, FileDagReader, Profile


@dataclass
class MemoryDag:
    """Blocks by CID. ``keep_leaves`` False keeps only what stands above the leaves."""

    keep_leaves: bool = True
    blocks: dict[Cid, bytes] = field(default_factory=dict)

    def __getitem__(self, cid: Cid) -> bytes:
        return self.blocks[cid]

    def add(self, codec: Codec, block: bytes) -> Cid:
        """Keep one block."""
        cid = Cid.of(codec, block)
        self.blocks[cid] = block
        return cid

    def add_file(self, stream: BinaryIO, profile: Profile) -> Child:
        """Import a file as the node does."""
        builder = FileDagBuilder(profile, self.blocks.__setitem__)
        while chunk := stream.read(profile.chunk_bytes):
            cid = Cid.of(Codec.RAW, chunk)
            if self.keep_leaves:
                self.blocks[cid] = chunk
            builder.leaf(cid, len(chunk))
        if builder.finish() == Cid.of(Codec.RAW, b""):
            self.add(Codec.RAW, b"")
        return builder.root

    def add_wrapped_file(self, chunks: Iterable[bytes], kind: Kind = Kind.FILE) -> Child:
        """Import a file whose leaves are dag-pb blocks, under one root."""
        children: list[Child] = []
        for chunk in chunks:
            around = leaf_envelope(len(chunk), kind)
            block = around.prefix + chunk + around.suffix
            children.append(Child(self.add(Codec.DAG_PB, block), len(chunk), len(block)))
        block = encode_file(children)
        size = sum(child.size_bytes for child in children)
        return Child(self.add(Codec.DAG_PB, block), size, len(block) + sum(child.dag_bytes for child in children))

    def add_folder(self, files: Mapping[str, bytes], profile: Profile, folders: Iterable[str] = ()) -> Built:
        """Import files of one chunk at most, by path."""
        entries: list[tuple[str, Cid, int]] = []
        for path, data in files.items():
            assert len(data) <= profile.chunk_bytes
            entries.append((path, self.add(Codec.RAW, data), len(data)))
        return build_tree(entries, profile, self.blocks.__setitem__, folders)

    def read_file(self, root: Cid) -> bytes:
        """The file under ``root``, every claim and every hash checked."""
        reader = FileDagReader(root)
        parts: dict[int, bytes] = {leaf.offset: bytes(data) for leaf, data in reader.opening.known}
        while reader.wanted:
            for cid in reader.wanted:
                assert cid.names(self.blocks[cid])
                fed = reader.feed(cid, self.blocks[cid])
                parts |= {leaf.offset: bytes(data) for leaf, data in fed.known}
                for leaf in fed.to_fetch:
                    assert leaf.cid.names(self.blocks[leaf.cid])
                    assert len(self.blocks[leaf.cid]) == leaf.size_bytes
                    parts[leaf.offset] = self.blocks[leaf.cid]
        data = b"".join(parts[leaf.offset] for leaf in reader.leaves)
        assert len(data) == reader.size_bytes
        return data

    def car(self, root: Cid) -> bytes:
        """All blocks as an archive."""
        sections = [car_section(cid, len(block)) + block for cid, block in self.blocks.items()]
        return car_header([root]) + b"".join(sections)
