"""Keys and certificates for TLS with authentication of both sides."""

import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from app.core.errors import UserError

SERVER, CLIENT = "server", "client"  # names in the certificates, and of the folders
AUTHORITY, CERTIFICATE, KEY = "authority.pem", "certificate.pem", "key.pem"
_YEARS = 5
_INVALID = (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion)  # raised for bad files


class KeyFiles(NamedTuple):
    """Files of one side.

    Attributes:
        authority: Certificate of the authority.
        certificate: Certificate of this side, signed by the authority.
        key: Private key of this side.
    """

    authority: Path
    certificate: Path
    key: Path


class _UnusableKeys(Exception):
    """A file is unusable; the text says which one, and why."""


def make_keys(folder: Path) -> tuple[Path, Path]:
    """Create an authority, one certificate for the server and one for its clients, and discard the authority's key.

    The client's key is enough to join; it can issue no certificate, and a client cannot act as the server.

    Args:
        folder: Receives ``server/`` and ``client/`` with three files each; only its owner can read the keys.

    Returns:
        Both folders.

    Raises:
        UserError: The folders exist already, or cannot be written.
    """
    made = folder / SERVER, folder / CLIENT
    for path in made:
        if path.exists():
            raise UserError(
                f"{path}: exists already. Remove it to make new keys, which must then be copied to every machine."
            )
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
        raise UserError(f"{error.filename}: cannot be written ({error.strerror}). Choose another folder.") from None
    return made


def key_files(folder: Path, side: str) -> KeyFiles:
    """Return the files of one side.

    Args:
        folder: ``network.keys_dir``.
        side: ``SERVER`` or ``CLIENT``.

    Raises:
        UserError: A file is missing.
    """
    files = KeyFiles(*(folder / side / name for name in (AUTHORITY, CERTIFICATE, KEY)))
    for path in files:
        if not path.is_file():
            raise UserError(
                f"network.keys_dir = {folder}: {path} is missing. Make the keys once with python app/make_keys.py, "
                f"and copy {side}/ to this machine."
            )
    return files


def checked_key_files(folder: Path, side: str) -> KeyFiles:
    """Return the files of one side after checking that they work together; their age is not checked.

    Args:
        folder: ``network.keys_dir``.
        side: ``SERVER`` or ``CLIENT``.

    Raises:
        UserError: A file is missing, cannot be read, is damaged, or does not belong to the others.
    """
    files = key_files(folder, side)
    try:
        _check(files)
    except _UnusableKeys as error:
        raise UserError(
            f"network.keys_dir = {folder}: {error}. Copy {side}/ to this machine again, or make new keys for "
            "every machine with python app/make_keys.py."
        ) from None
    return files


def load_certificates(files: KeyFiles) -> tuple[Any, Any]:
    """Return twisted's ``Certificate`` of the authority and ``PrivateCertificate`` of this side, from checked files."""
    from twisted.internet import ssl

    authority = ssl.Certificate.loadPEM(files.authority.read_bytes())
    own = ssl.PrivateCertificate.loadPEM(files.key.read_bytes() + b"\n" + files.certificate.read_bytes())
    return authority, own


def _check(files: KeyFiles) -> None:
    """Raise _UnusableKeys unless the certificate is signed by the authority and belongs to the key."""
    authority = _read(files.authority, x509.load_pem_x509_certificate)
    own = _read(files.certificate, x509.load_pem_x509_certificate)
    private = _read(files.key, partial(serialization.load_pem_private_key, password=None))
    try:
        own.verify_directly_issued_by(authority)
        belongs = private.public_key() == own.public_key()
    except _INVALID:
        raise _UnusableKeys(f"{files.certificate} is not signed by {files.authority}") from None
    if not belongs:
        raise _UnusableKeys(f"{files.key} does not belong to {files.certificate}")


def _read(path: Path, parse: Any) -> Any:
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise _UnusableKeys(f"{path} cannot be read ({error.strerror})") from None
    except _INVALID:
        raise _UnusableKeys(f"{path} is empty or damaged, or needs a passphrase") from None


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
