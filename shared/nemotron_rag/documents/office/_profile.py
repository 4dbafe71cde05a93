"""The user profile that LibreOffice starts with: no macros, no links to elsewhere, no questions."""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_profile"]

_NOWHERE = "127.0.0.1"
_COMMON = "/org.openoffice.Office.Common"
_SETTINGS: tuple[tuple[str, str, str, str], ...] = (
    # Macros: the highest level, where only trusted places may run them, and there is none; and not even these.
    (f"{_COMMON}/Security/Scripting", "MacroSecurityLevel", "int", "3"),
    (f"{_COMMON}/Security/Scripting", "DisableMacrosExecution", "boolean", "true"),
    (f"{_COMMON}/Security/Scripting", "DisableActiveContent", "boolean", "true"),
    (f"{_COMMON}/Security/Scripting", "DisablePythonRuntime", "boolean", "true"),
    # Links: images, sections, cells and objects of other files and of the network are not read.
    (f"{_COMMON}/Security/Scripting", "BlockUntrustedRefererLinks", "boolean", "true"),
    ("/org.openoffice.Office.Writer/Content/Update", "Link", "int", "0"),
    ("/org.openoffice.Office.Calc/Content/Update", "Link", "int", "1"),
    # The network: a proxy that is not there, for whatever asks for it all the same.
    ("/org.openoffice.Inet/Settings", "ooInetProxyType", "int", "2"),
    ("/org.openoffice.Inet/Settings", "ooInetHTTPProxyName", "string", _NOWHERE),
    ("/org.openoffice.Inet/Settings", "ooInetHTTPProxyPort", "int", "9"),
    ("/org.openoffice.Inet/Settings", "ooInetHTTPSProxyName", "string", _NOWHERE),
    ("/org.openoffice.Inet/Settings", "ooInetHTTPSProxyPort", "int", "9"),
    ("/org.openoffice.Inet/Settings", "ooInetFTPProxyName", "string", _NOWHERE),
    ("/org.openoffice.Inet/Settings", "ooInetFTPProxyPort", "int", "9"),
    ("/org.openoffice.Inet/Settings", "ooInetNoProxy", "string", ""),
    # Java: for nothing that is needed here.
    ("/org.openoffice.Office.Java/VirtualMachine", "Enable", "boolean", "false"),
    (f"{_COMMON}/Misc", "FirstRun", "boolean", "false"),
    (f"{_COMMON}/Save/Document", "CreateBackup", "boolean", "false"),
)
_ITEM = '<item oor:path="{}"><prop oor:name="{}" oor:op="fuse" oor:type="xs:{}"><value>{}</value></prop></item>'


def write_profile(folder: Path) -> None:
    """Write a profile for LibreOffice's option ``-env:UserInstallation``."""
    user = folder / "user"
    user.mkdir(parents=True)
    items = "\n".join(_ITEM.format(*setting) for setting in _SETTINGS)
    (user / "registrymodifications.xcu").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<oor:items xmlns:oor="http://openoffice.org/2001/registry" xmlns:xs="http://www.w3.org/2001/XMLSchema">\n'
        f"{items}\n</oor:items>\n",
        encoding="utf-8",
    )
