#!/usr/bin/env bash
# pyarrow 26.0.1: a table with a list column that is written to Parquet, read and written again is another file, though
# both tables and both schemas say that they are equal.
#
# A list type made by pa.list_(...) names its items "item". Parquet's own convention is "element" (since Arrow 11 the
# default, use_compliant_nested_type), and so the table that is read back has "element" there. Equality does not look at
# this name; the Arrow schema that is stored in the file's footer has it. Whoever compares files by their hash (DVC, a
# content-addressed store) sees a change where nothing changed. Casting to the schema that the first table had mends it.
#
# Output seen:
#   tables equal: True, schemas equal: True
#   item -> element
#   files equal: False, after a cast: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pyarrow==26.0.1
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import pyarrow as pa
import pyarrow.parquet as pq

schema = pa.schema([("labels", pa.list_(pa.string()))])
first = pa.Table.from_pylist([{"labels": ["a", "b"]}, {"labels": []}], schema=schema)
pq.write_table(first, "first.parquet")
second = pq.read_table("first.parquet")
pq.write_table(second, "second.parquet")
pq.write_table(second.cast(schema), "third.parquet")
content = [open(f"{name}.parquet", "rb").read() for name in ("first", "second", "third")]
names = [table.schema.field("labels").type.value_field.name for table in (first, second)]
print(f"tables equal: {first.equals(second)}, schemas equal: {first.schema.equals(second.schema)}")
print(" -> ".join(names))
print(f"files equal: {content[0] == content[1]}, after a cast: {content[0] == content[2]}")
assert first.equals(second)
assert first.schema.equals(second.schema)
assert names == ["item", "element"]
assert content[0] != content[1]
assert content[0] == content[2]
PYTHON
