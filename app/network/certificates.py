"""Keys and certificates for TLS in which both sides prove who they are."""

import datetime
from functools import partial
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from app.errors import UserError

SERVER, CLIENT = "server", "client"  # names in the certificates, and of the folders
AUTHORITY, CERTIFICATE, KEY = "authority.pem", "certificate.pem", "key.pem"
_YEARS = 5
_BAD = (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion)  # what files may hold


def make_keys(folder: Path) -> tuple[Path, Path]:
    """Make an authority, let it sign one certificate for the server and one for its clients, and forget its key.

    Whoever has the client's key can join; nobody can issue another one, and a client cannot pass for the server.

    Args:
        folder: gets ``server/`` and ``client/`` with three files each; only its owner can read the keys.

    Returns:
        Both folders.

    Raises:
        UserError: there are keys already, or the folder cannot be written.
    """
    made = folder / SERVER, folder / CLIENT
    for path in made:
        if path.exists():
            raise UserError(f"{path}: is there already. Remove it to make new keys, which every machine then needs.")
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("trackmania-droq authority")
    authority = _sign(name, key, name, key, x509.BasicConstraints(ca=True, path_length=0), None)
    try:
        for path, usage in zip(made, (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH), strict=True):
            own = ec.generate_private_key(ec.SECP256R1())
            signed = _sign(_name(path.name), own, name, key, x509.BasicConstraints(False, None), usage)
            path.mkdir(parents=True, mode=0o700)
            (path / AUTHORITY).write_bytes(_pem(authority))
            (path / CERTIFICATE).write_bytes(_pem(signed))
            _write_key(path / KEY, own)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be written ({error.strerror}). Name another folder.") from None
    return made


def files_of(folder: Path, side: str) -> tuple[Path, Path, Path]:
    """Return the authority's certificate, this side's own, and its key.

    Raises:
        UserError: one is missing.
    """
    paths = tuple(folder / side / name for name in (AUTHORITY, CERTIFICATE, KEY))
    for path in paths:
        if not path.is_file():
            raise UserError(
                f"network.keys_dir = {folder}: {path} is missing. Make the keys once with python app/make_keys.py, "
                f"and copy {side}/ to this machine."
            )
    return paths


def usable_files_of(folder: Path, side: str) -> tuple[Path, Path, Path]:
    """Return what ``files_of`` does, once the three are known to work together; how old they are is not looked at.

    Raises:
        UserError: one is missing, cannot be read, is damaged, or does not belong to the others.
    """
    paths = files_of(folder, side)
    if trouble := _trouble(*paths):
        raise UserError(
            f"network.keys_dir = {folder}: {trouble}. Copy {side}/ to this machine once more, or make new keys for "
            "every machine with python app/make_keys.py."
        )
    return paths


def _trouble(authority: Path, certificate: Path, key: Path) -> str:
    """Return which file is of no use, and why; "" where all work together."""
    public, private = x509.load_pem_x509_certificate, partial(serialization.load_pem_private_key, password=None)
    loaded = []
    for path, read in ((authority, public), (certificate, public), (key, private)):
        try:
            loaded.append(read(path.read_bytes()))
        except OSError as error:
            return f"{path} cannot be read ({error.strerror})"
        except _BAD:
            return f"{path} is empty or damaged, or needs a passphrase"
    trusted, own, secret = loaded
    try:
        own.verify_directly_issued_by(trusted)
        belongs = secret.public_key() == own.public_key()
    except _BAD:
        return f"{certificate} is not signed by {authority}"
    return "" if belongs else f"{key} does not belong to {certificate}"


def load(authority: Path, certificate: Path, key: Path) -> tuple[Any, Any]:
    """Return twisted's ``Certificate`` of the authority and ``PrivateCertificate`` of this side, from usable files."""
    from twisted.internet import ssl

    trusted = ssl.Certificate.loadPEM(authority.read_bytes())
    return trusted, ssl.PrivateCertificate.loadPEM(key.read_bytes() + b"\n" + certificate.read_bytes())


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _sign(subject, key, issuer, issuer_key, constraints, usage) -> x509.Certificate:
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=365 * _YEARS))
        .add_extension(constraints, critical=True)
    )
    if usage is not None:
        common = subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(common)]), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
