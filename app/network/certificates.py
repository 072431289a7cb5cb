"""Keys and certificates for TLS in which both sides prove who they are."""

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from app.errors import UserError

SERVER, CLIENT = "server", "client"  # names in the certificates, and of the folders
AUTHORITY, CERTIFICATE, KEY = "authority.pem", "certificate.pem", "key.pem"
_YEARS = 5


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
