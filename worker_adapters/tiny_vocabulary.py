"""The words of a generated model: its tokens, their merges, and the templates of its chats."""

from __future__ import annotations

from typing import NamedTuple

_DICTIONARY = """
a above after again air all along and answer apple around as at away back bank be because bell
below beside bird blue boat book both branch bread bridge bright brook brown but by calm carry cat
chair child clear cloud coast cold copper corner cross dark day deep door down dream drum dry dust
each early east edge evening every far feather field find fire first fish floor flower fold for
forest from full garden gate gentle glass go gold good grain green ground half hammer hand harbor
he hear heart here high hill his home horse hour how if in iron island it key kind lake lamp large
late leaf left light like linen listen little long low man many map marble meadow milk mill mirror
moon more morning moss mountain narrow near needle never new night north not now oak ocean of old
on once only open or orange orchard our out over owl paper path pearl plain pond quiet rain red
reed rice ridge river road roof room rope sail salt sand sea seed she shore silver slow small snow
so soft song south spring star still stone stream summer sun table that the then there they thread
through tide to tower tree under until up valley very village voice warm was water wave we west
when where white wide wild wind window winter with wolf wood year yellow you young
"""
WORDS = tuple(_DICTIONARY.split())

PAD, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CONTROL = (PAD, TURN_START, TURN_END)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    f"{{{{ '{TURN_START}' + message['role'] + '\\n' + message['content'] + '{TURN_END}\\n' }}}}"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{{{{ '{TURN_START}assistant\\n' }}}}{{% endif %}}"
)
TOOL_TEMPLATE = (
    "{% if tools %}"
    f"{{{{ '{TURN_START}system\\n<tools>' }}}}"
    "{% for tool in tools %}{{ '\\n' + (tool | tojson) }}{% endfor %}"
    f"{{{{ '\\n</tools>{TURN_END}\\n' }}}}"
    "{% endif %}" + CHAT_TEMPLATE
)
"""The same, and it tells of the tools there are."""


class Vocabulary(NamedTuple):
    """Byte-level BPE: every byte, and every beginning of " word" with its merge."""

    tokens: list[str]
    merges: list[str]


def byte_letters() -> list[str]:
    """One printable letter per byte value, as GPT-2 maps them."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(0x100)]


def vocabulary() -> Vocabulary:
    """All that a generated model reads and writes."""
    letters = byte_letters()
    tokens = dict.fromkeys((*CONTROL, *letters))
    merges: dict[str, None] = {}
    for word in WORDS:
        beginning = letters[ord(" ")]
        for letter in word:
            merges[f"{beginning} {letter}"] = None
            beginning += letter
            tokens[beginning] = None
    return Vocabulary(list(tokens), list(merges))
