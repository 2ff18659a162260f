"""Rules of the repository that neither the linter nor the import contracts can hold."""

import re
from pathlib import Path

import pytest
import yaml

from config.secret_files import SECRETS
from config.settings import Settings

ROOT = Path(__file__).parents[2]
LOCKS = sorted(ROOT.glob("requirements*.lock"))


def test_only_config_configures_structlog() -> None:
    sources = [
        file
        for folder in ("config", "service", "workers")
        for file in ROOT.glob(f"{folder}/**/*.py")
    ]
    configuring = [file for file in sources if "structlog.configure(" in file.read_text()]
    assert [str(file.relative_to(ROOT)) for file in configuring] == ["config/logging.py"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda file: file.name)
def test_a_lock_file_names_no_package_index(lock: Path) -> None:
    assert not re.search(r"://|index-url|find-links", lock.read_text())


@pytest.mark.parametrize("lock", LOCKS, ids=lambda file: file.name)
def test_a_lock_file_holds_a_hash_for_every_version(lock: Path) -> None:
    entries = re.split(r"^(?=[a-z])", lock.read_text(), flags=re.MULTILINE)[1:]
    assert entries
    assert [entry for entry in entries if "==" not in entry or "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize("file", ["Dockerfile", "docker-compose.yml"])
def test_every_setting_of_the_deployment_exists(file: str) -> None:
    known = {f"HAULIER_{name.upper()}" for name in Settings.model_fields}
    known |= {"HAULIER_IMAGE", "HAULIER_PORT"}  # of the compose file itself
    named = set(re.findall(r"HAULIER_[A-Z_]+", (ROOT / file).read_text()))
    assert named - known == set()


def test_each_service_of_the_deployment_gets_the_secrets_that_it_needs() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    servers = {"DATABASE_URL", "REDIS_URL"}
    worker = servers | {"TOGETHER_API_KEY", "HAULIER_ACCOUNTS"}
    assert {
        name: {
            variable
            for variable, value in service["environment"].items()
            if variable in SECRETS and "ACCOUNT_NAMES" not in str(value)
        }
        for name, service in services.items()
        if "haulier:latest" in service["image"]
    } == {
        "migrate": {"DATABASE_URL"},
        "api": {"DATABASE_URL", "HAULIER_ADMIN_TOKEN"},
        "worker-transfer": worker,
        "worker-control": worker,
        "scheduler": servers,
        "inbox": servers,
        "notifier": servers,
        "simulator": set(),
    }
