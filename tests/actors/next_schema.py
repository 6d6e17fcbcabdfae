"""Makes of schema/cluster.capnp what a later version of it could be: next_schema.py IN OUT.

Each struct gets a number and a text more, each union a member more: all that may change without a
new protocol. Made from the present schema, it is always one version ahead.
"""

import re
import sys

NEXT = {  # what grows at the end of each
    "struct": [("nextNumber", "UInt64"), ("nextText", "Text")],
    "union": [("nextMember", "Text")],
}


def grow(lines):
    open_blocks = []  # (kind, the highest ordinal in the struct that it belongs to)
    for line in lines:
        code = line.split("#")[0]
        if match := re.search(r"\b(struct|union|enum)\b.*{", code):
            kind = match.group(1)
            ordinals = open_blocks[-1][1] if kind == "union" else [-1]
            open_blocks.append((kind, ordinals))
        elif match := re.match(r"\s*\w+ @(\d+)", code):
            ordinals = open_blocks[-1][1]
            ordinals[0] = max(ordinals[0], int(match.group(1)))
        elif "}" in code:
            kind, ordinals = open_blocks.pop()
            for name, type_name in NEXT.get(kind, []):
                ordinals[0] += 1
                yield f"  {name} @{ordinals[0]} :{type_name};\n"
        yield line


def main(source, target):
    with open(source) as schema:
        text = "".join(grow(schema.readlines()))
    for present, other in (
        (r"^@0x\w+;", "@0xb7c41d5e90f2a386;"),
        (r'"plimsoll::schema"', '"plimsoll::next"'),
        (r'import "error.capnp"', 'import "/schema/error.capnp"'),
        (r'import "memory.capnp"', 'import "/schema/memory.capnp"'),
        (r'import "cache.capnp"', 'import "/schema/cache.capnp"'),
    ):
        text, count = re.subn(present, other, text)
        assert count == 1, f"the schema has {count} times {present}"
    with open(target, "w") as schema:
        schema.write(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
