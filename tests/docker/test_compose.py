"""compose.yaml: a hospital reaches the server's port and nothing else, and no container may more than it needs."""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from acm_core.config import FederationConfig, SiteConfig, load_config

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
HOSPITALS = {name: service for name, service in SERVICES.items() if name.startswith("hospital-")}
HOME = "/home/acmfed"


def mounts(service: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    """Target → (source, read only)."""
    found = {}
    for mount in service["volumes"]:
        if isinstance(mount, str):
            source, target, *mode = mount.split(":")
            found[target] = (source, mode == ["ro"])
        else:
            found[mount["target"]] = (mount["source"], mount.get("read_only", False))
    return found


def federation() -> FederationConfig:
    return load_config(FOLDER / "federation.yaml", FederationConfig)


def test_a_hospital_meets_the_server_alone() -> None:
    assert len(HOSPITALS) == 3
    for name, hospital in HOSPITALS.items():
        (network,) = hospital["networks"]
        assert COMPOSE["networks"][network] == {"internal": True}
        members = {other for other, service in SERVICES.items() if network in service.get("networks", ())}
        assert members == {name, "server"}
    assert SERVICES["server"]["sysctls"] == {"net.ipv4.ip_forward": 0}


def test_one_port_is_published() -> None:
    port = federation().server.port
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"server": [f"{port}:{port}"]}


def test_hospitals_share_no_volume_and_write_to_their_own_alone() -> None:
    own = [{source for source, _ in mounts(hospital).values()} for hospital in HOSPITALS.values()]
    for one, other in itertools.combinations(own, 2):
        assert not one & other
    for name, service in SERVICES.items():
        if name != "films":
            written = {target: source for target, (source, fixed) in mounts(service).items() if not fixed}
            assert written == {HOME: name}
            assert name in COMPOSE["volumes"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_no_rights_that_it_does_not_need(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert service.get("network_mode", "none") == "none"
    for more in ("privileged", "cap_add", "devices", "pid", "ipc", "userns_mode", "user", "group_add"):
        assert more not in service
    assert not any(source.endswith(".sock") for source, _ in mounts(service).values())


def test_the_films_are_read_only_and_the_site_file_names_them() -> None:
    for name, hospital in HOSPITALS.items():
        site = name.rpartition("-")[2].upper()
        assert hospital["command"] == ["python", "-m", "client.run", f"--site={site}"]
        found = mounts(hospital)
        film_folder, fixed = found["/films"]
        assert fixed
        assert film_folder == f"${{FILMS_{site}:-../data/hospitals/demo/{site}}}"
        source, fixed = found[f"{HOME}/configs/sites/{site}.yaml"]
        assert fixed
        settings = load_config(FOLDER / source, SiteConfig)
        assert settings.site == site
        assert settings.site in federation().federation.sites
        assert settings.films == Path("/films")
        assert settings.state.is_relative_to(HOME)


def test_the_federation_is_that_of_the_readme_but_for_its_address() -> None:
    source, fixed = mounts(SERVICES["server"])[f"{HOME}/configs/federation.yaml"]
    assert fixed
    ours = load_config(FOLDER / source, FederationConfig)
    readme = load_config(REPOSITORY / "configs" / "federation.yaml", FederationConfig)
    assert ours.model_copy(update={"server": readme.server}) == readme
    assert "server" in ours.server.names
    assert ours.server.host == "0.0.0.0"  # noqa: S104  # of the container


def test_the_server_goes_on_with_its_run_when_it_is_started_again(tmp_path: Path) -> None:
    stand_in = tmp_path / "bin" / "python"
    stand_in.parent.mkdir()
    stand_in.write_text('#!/bin/sh\necho "$@"\n', encoding="utf-8")
    stand_in.chmod(0o755)
    command = [part.replace("$$", "$") for part in SERVICES["server"]["command"]]

    def started() -> str:
        environment = {**os.environ, "PATH": f"{stand_in.parent}:{os.environ['PATH']}"}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        ).stdout

    assert started() == "-m server.run\n"
    run = tmp_path / "runs" / federation().name
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    assert started() == "-m server.run --resume\n"


def test_the_cuda_file_changes_what_it_has_to() -> None:
    changes = yaml.safe_load((FOLDER / "compose.cuda.yaml").read_text(encoding="utf-8"))["services"]
    assert changes.keys() <= HOSPITALS.keys()
    for change in changes.values():
        assert change.keys() == {"build", "image", "deploy"}
        assert change["build"]["target"] == "client-cuda"
