"""A small checkpoint on this disk, the same behind every kind of address, and secrets that nobody may see."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from loopback import REPOSITORY, Loopback
from loopback_stores import ROOTS, settings_of
from safetensors.torch import save_file

import weighbridge as wb
from weighbridge.storage.remote import pace

MAPPING: Final = wb.Mapping(
    [
        wb.WeightRenaming("gamma", "weight"),
        wb.WeightConverter(
            ["experts.*.gate.weight", "experts.*.up.weight"],
            "experts.gate_up",
            [wb.MergeModulelist(dim=0), wb.Concatenate(dim=1)],
        ),
    ],
    name="tiny",
)
SHARDS: Final = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
SECRETS: Final = (
    "SECRETTOKEN",
    "SECRETKEY",
    "SECRETPASSWORD",
    "SECRETSIGNATURE",
    "U0VDUkVUUEFTU1dPUkQ",
    "U0VDUkVUS0VZ",
)
"""What may stand in no output; the last two are the password as a header has it, and the key as Azure has it."""

HURRIED: Final = pace.Patience(tries=6, first_seconds=0.0005, most_seconds=0.002, longest_asked_seconds=5)
"""Waits that a test can wait for."""


def write_tiny(directory: Path, *, rows: int = 24) -> Path:
    """Write two shards with an index, and files beside them; `rows` makes them larger."""
    directory.mkdir(parents=True)
    torch.manual_seed(rows)
    names = [f"layers.{i}.experts.{e}.{part}.weight" for i in range(2) for e in range(3) for part in ("gate", "up")]
    shards: list[dict[str, torch.Tensor]] = [
        {name: torch.randn(rows, 16) for name in names},
        {f"layers.{i}.norm.gamma": torch.randn(16) for i in range(2)},
    ]
    for name, tensors in zip(SHARDS, shards, strict=True):
        save_file(tensors, directory / name, metadata={"format": "pt"})
    weight_map = {key: name for name, tensors in zip(SHARDS, shards, strict=True) for key in tensors}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (directory / "config.json").write_text('{"model_type": "tiny", "hidden_size": 16}')
    (directory / "tokenizer.json").write_text('{"words": ["a", "b"]}')
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    """Return each file of a directory, by its path in it."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def without_source(files: dict[str, bytes]) -> dict[str, Any]:
    """Return files with the receipt as a value that does not say where the source was."""
    receipt = json.loads(files["weighbridge.json"])
    del receipt["source"]
    return {**files, "weighbridge.json": receipt}


@contextmanager
def reached(server: Loopback, folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """Have all clients find the server, and secrets, in the environment, as they would find those of a user."""
    with pytest.MonkeyPatch.context() as patch:
        named = {
            "HF_ENDPOINT": server.url,
            "HF_TOKEN": "SECRETTOKEN",
            "NO_PROXY": "127.0.0.1,localhost",
            **settings_of(server),
        }
        for name, value in named.items():
            patch.setenv(name, value)
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
        patch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(folder / "hub"), raising=False)
        patch.setattr(pace, "PATIENCE", HURRIED)
        yield patch


def addresses(server: Loopback) -> dict[str, str]:
    """Return the addresses under which the server has the checkpoint."""
    with_user = server.url.replace("//", "//me:SECRETPASSWORD@")
    return {"hub": f"hf://{REPOSITORY}", "store": "s3://bucket/models/tiny", "server": f"{with_user}/plain"}


def serve_everywhere(server: Loopback, directory: Path) -> None:
    """Serve a checkpoint under each of its addresses."""
    stores = [f"{root}/models/tiny" for root in ROOTS.values()]
    for prefix in (f"/hub/{REPOSITORY}", "/plain", *stores):
        server.serve(prefix, directory)


def encryption(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Return how a server encrypts for the name `localhost`, and the file of the authority that whoever trusts names.

    Args:
        folder: Where keys and certificates are written.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now, pem = datetime.now(UTC), serialization.Encoding.PEM
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("authority", "localhost")}
    names = {name: x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in keys}
    issuer = names["authority"]
    for number, (name, key) in enumerate(keys.items()):
        times = now - timedelta(1), now + timedelta(1)
        begun = x509.CertificateBuilder(issuer, names[name], key.public_key(), number + 1, *times)
        made = begun.add_extension(x509.BasicConstraints(name == "authority", None), critical=True)
        made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        # Python 3.13 is strict: certificates say by which key they are signed, and what their own key is for.
        of_authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(keys["authority"].public_key())
        made = made.add_extension(of_authority, critical=False)
        made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        made = made.add_extension(_usage(signs=name == "authority"), critical=True)
        signed = made.sign(keys["authority"], hashes.SHA256()).public_bytes(pem)
        form = serialization.PrivateFormat.PKCS8
        (folder / f"{name}.key").write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
        (folder / f"{name}.pem").write_bytes(signed)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "localhost.pem", folder / "localhost.key")
    return context, folder / "authority.pem"


def _usage(*, signs: bool) -> Any:
    """Return what a key may be used for: to sign certificates, or to answer for a server."""
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def check_no_secret(*texts: object) -> None:
    """Check that none of some texts, or of the files of directories, holds a secret."""
    for text in texts:
        shown = "\n".join(map(str, contents(text).items())) if isinstance(text, Path) else str(text)
        for secret in SECRETS:
            assert secret not in shown, f"{secret} is shown"
