"""Secrets in files, as container platforms mount them: `TOGETHER_API_KEY_FILE` names one."""

from collections.abc import Collection, Mapping
from pathlib import Path

SECRETS = (
    "DATABASE_URL",
    "REDIS_URL",
    "TOGETHER_API_KEY",
    "HAULIER_ACCOUNTS",
    "HAULIER_ADMIN_TOKEN",
    "HAULIER_TOKEN",
)
"""The variables whose value may stand in a file instead."""

MOST_BYTES = 1_000_000


def file_of(variable: str) -> str:
    """Return the name of the variable that names the file."""
    return f"{variable}_FILE"


def read_secret(path: str) -> str:
    """Return a file's text without white space around it. Raises ValueError."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    if len(content) > MOST_BYTES:
        raise ValueError(f"{path} has more than {MOST_BYTES:,} bytes; is it the right file?")
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8; is it the right file?") from None
    if not text:
        raise ValueError(f"{path} is empty")
    return text


def secrets_in_files(environment: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the secrets that stand in files, by variable, and what is wrong with the others."""
    found, problems = {}, []
    for variable in SECRETS:
        path = environment.get(file_of(variable))
        if not path:
            continue
        if environment.get(variable):
            problems.append(f"{file_of(variable)}: {variable} is set as well; set one of them")
            continue
        try:
            found[variable] = read_secret(path)
        except ValueError as error:
            problems.append(f"{file_of(variable)}: {error}")
    return found, problems


def without_secrets(environment: Mapping[str, str], *, but: Collection[str] = ()) -> dict[str, str]:
    """Return an environment for a process that needs only the secrets `but`."""
    hidden = {variable for variable in SECRETS if variable not in but}
    hidden |= {file_of(variable) for variable in hidden}
    return {name: value for name, value in environment.items() if name not in hidden}
