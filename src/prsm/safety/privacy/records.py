"""The record of processing activities (GDPR Art. 30), written from the register: what is processed, why, how long."""

from collections.abc import Mapping

from prsm.safety.privacy.register import HOLDINGS, PURPOSES

_HEAD = """# Record of processing activities

Of the node `{node}`, generated at {at} from the register that export and erasure use.

- **Controller**: the operator of this node, who adds name, address and, if there is one, the data protection officer.
- **Subjects**: principals of the node: people, teams and services with an API key.
- **Recipients**: the providers that a request is routed to get its messages (Art. 13(1)(e)); nobody else. Third
  countries: where those providers are; the operator's to state.
- **Security (Art. 32)**: content is sealed under a key of each subject (AES-256-GCM), keys of providers under the
  node's; API keys are kept as keyed hashes; every change and every admin's reading is in the audit log.
- **Rights**: access and portability by `prsm privacy export`, erasure by `prsm privacy erase`, objection by
  `prsm privacy consent`.
"""


def write_records(node_id: str, at: str, kept: Mapping[str, str]) -> str:
    """The document as Markdown; ``kept`` are the settings that periods are named by, with their values."""
    lines = [
        _HEAD.format(node=node_id, at=at),
        "| data | purpose | basis | kept | when erased |",
        "|---|---|---|---|---|",
    ]
    for holding in HOLDINGS:
        period = holding.kept
        for name, value in kept.items():
            period = period.replace(name, f"{name} = {value}")
        lines.append(
            f"| {holding.what} (`{holding.table}`) | {holding.purpose} | {holding.basis} | {period} | "
            f"{_FATE[holding.at_erasure]} |"
        )
    lines += ["", "## Purposes that people are asked about", ""]
    lines += [f"- `{p.name}`: {p.says} Without a word: {'yes' if p.default else 'no'}." for p in PURPOSES.values()]
    return "\n".join(lines) + "\n"


_FATE = {
    "delete": "deleted",
    "blank": "blanked; keys revoked",
    "keep": "kept under an id that leads nowhere; sealed parts unreadable",
}
