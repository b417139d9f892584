"""Tables as people save them: what is read of awkward files, and what is refused, by line and cell."""

import pytest
from cases.files import READ, REFUSED, UNUSED

from dtda_prob.tables import read_table, roles


def write(folder, content) -> str:
    path = folder / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize("name", READ)
def test_awkward_files_are_read(tmp_path, name):
    case = READ[name]
    table = read_table(write(tmp_path, case.content))
    assert {k: table.columns[k].kind for k in case.kinds or ()} == (case.kinds or {})
    for (column, line), value in (case.values or {}).items():
        found = table.frame.loc[line, column]
        assert found == value if value is not None else found != found
    chosen = roles(table)
    said = "\n".join(": ".join(pair) for pair in chosen.described())
    assert all(words in said for words in case.says), said
    assert case.task in ("", chosen.task)
    assert case.target in (None, chosen.target.name)
    assert case.rows in (None, len(chosen.lines))


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_by_line_and_cell(tmp_path, name):
    content, message = REFUSED[name]
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        read_table(write(tmp_path, content))
    assert "table.csv" in str(refused.value)
    assert message in str(refused.value)


@pytest.mark.parametrize("name", UNUSED)
def test_what_cannot_be_predicted_is_refused(tmp_path, name):
    content, options, message = UNUSED[name]
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        roles(read_table(write(tmp_path, content)), **options)
    assert message in str(refused.value)
