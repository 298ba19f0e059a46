"""Advisories hold of the versions that they name, and of no others."""

import pytest
from packaging.version import Version

from tests import audit

ADVISORY = """
id: PYSEC-1
aliases: [CVE-1]
affected:
- package: {name: Some.Package, ecosystem: PyPI}
  ranges:
  - type: GIT
    events: [{introduced: "0"}]
  - type: ECOSYSTEM
    events: [{introduced: "2.5"}, {fixed: "2.5.2"}, {introduced: "0"}, {fixed: 2.3.2}]
  - type: ECOSYSTEM
    events: [{introduced: "4"}, {last_affected: "4.1"}]
  versions: ["9.9"]
"""


@pytest.mark.parametrize(
    ("version", "holds"),
    [
        *(("0.1", True), ("2.3.1", True), ("2.3.2", False), ("2.4", False), ("2.5", True), ("2.5.1", True)),
        *(("2.5.2", False), ("3", False), ("4.1", True), ("4.1.1", False), ("4.0rc1", False), ("9.9", True)),
    ],
)
def test_an_advisory_holds_of_its_versions(tmp_path, version, holds):
    folder = tmp_path / "vulns" / "some-package"
    folder.mkdir(parents=True)
    (folder / "PYSEC-1.yaml").write_text(ADVISORY)
    (folder / "PYSEC-2.yaml").write_text(ADVISORY.replace("PYSEC-1", "PYSEC-2") + "withdrawn: 2024-01-01\n")
    lock = f"some_package=={version} ; python_version < '3.11'\nanother==2.4\n"
    assert list(audit.audit(tmp_path, lock)) == [f"some-package {Version(version)}: PYSEC-1 CVE-1"] * holds


def test_every_pinned_version_is_seen(tmp_path):
    lines = [line for line in audit.LOCK.read_text().splitlines() if "==" in line]
    assert len(audit.pinned(audit.LOCK.read_text())) == len(lines) > 100
    with pytest.raises(FileNotFoundError, match="must hold the folder vulns"):
        list(audit.audit(tmp_path, ""))
