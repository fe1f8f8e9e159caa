"""Content Credentials: signed with a certificate made here, read back by the standard's own library."""

import io
import json
from datetime import UTC, datetime, timedelta

import c2pa
import pytest
from conftest import composed, generate, picture, small, train
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image

from artdiff import UserError, origin
from artdiff.origin import COMPOSITE, FORMATS, GENERATED, Origin
from artdiff.settings.passing import SignSettings
from artdiff.signing import Signer


def issued(name, key, issuer, issuer_key, *, days):
    """A certificate for `key`, that of an authority if it issues itself."""

    def called(name):
        given = {NameOID.ORGANIZATION_NAME: "Tests of artdiff", NameOID.COMMON_NAME: name}
        return x509.Name([x509.NameAttribute(kind, value) for kind, value in given.items()])

    def usage(**allowed):
        every = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
                 "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
        return x509.KeyUsage(**(dict.fromkeys(every, False) | allowed))

    is_authority, now = name == issuer, datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(called(name)).issuer_name(called(issuer))
    made = made.public_key(key.public_key()).serial_number(x509.random_serial_number())
    made = made.not_valid_before(now - timedelta(days=30)).not_valid_after(now + timedelta(days=days))
    made = made.add_extension(x509.BasicConstraints(is_authority, None), critical=True)
    made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    about_issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    made = made.add_extension(about_issuer, critical=False)
    made = made.add_extension(usage(digital_signature=True, key_cert_sign=is_authority), critical=True)
    if not is_authority:
        made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return made.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def settings(folder, *, days=30):
    """A certificate and its key, as files."""
    authority, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    chain = issued("signer", key, "authority", authority, days=days)
    chain += issued("authority", authority, "authority", authority, days=30)
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "chain.pem").write_bytes(chain)
    (folder / "key.pem").write_bytes(key.private_bytes(*plain))
    return [f"sign.certificate={folder / 'chain.pem'}", f"sign.key={folder / 'key.pem'}"]


def asked(words):
    return SignSettings.of(composed("generate", "out=unused", "ckpt=unused", *words)["sign"])


@pytest.fixture(scope="module")
def sign(tmp_path_factory):
    return settings(tmp_path_factory.mktemp("certificate"))


def told(path):
    """The state of a picture's signature, and the active manifest."""
    mime = f"image/{FORMATS[path.suffix].lower()}"
    with c2pa.Reader(mime, io.BytesIO(path.read_bytes())) as reader:
        content = json.loads(reader.json())
        return reader.get_validation_state(), content["manifests"][content["active_manifest"]]


@pytest.mark.parametrize("end", FORMATS)
@pytest.mark.parametrize(("source", "term"), [(None, GENERATED), ("a muse by Ada", COMPOSITE)])
def test_every_format_is_signed(end, source, term, sign, tmp_path):
    path = tmp_path / f"made{end}"
    origin.save(picture(1), path, Origin({"seed": 3}, source), signer=Signer(asked(sign)))
    state, manifest = told(path)
    (made,) = manifest["assertions"][0]["data"]["actions"]
    assert (state, made["digitalSourceType"]) == ("Valid", term)
    assert source is None or source in made["description"]
    assert origin.settings_of(path) == {"seed": 3}


def test_a_pixel_changed_afterwards_shows(sign, tmp_path):
    path = tmp_path / "made.png"
    origin.save(picture(1), path, Origin({"seed": 3}), signer=Signer(asked(sign)))
    changed = path.read_bytes().replace(b'"seed": 3', b'"seed": 4')
    assert changed != path.read_bytes()
    with c2pa.Reader("image/png", io.BytesIO(changed)) as reader:
        assert reader.get_validation_state() == "Invalid"


def test_the_command_signs_pictures_and_sheet_and_they_are_painted_again(sign, art, tmp_path):
    tiny = ("network=unet", "network.channels=[32,32]", "network.cond_dim=16", "scheduler=null", "data.image_size=16")
    train(small(art, tmp_path / "run", "experiment=paint32", *tiny))
    words = ("label=truchet", "n=1", "steps=2", "device=cpu", *sign)
    written = generate(composed("generate", f"ckpt={tmp_path / 'run'}", f"out={tmp_path / 'made'}", *words))
    assert len(written) == 2 and all(told(path)[0] == "Valid" for path in written)
    again = generate(composed("generate", f"from={written[0]}", f"ckpt={tmp_path / 'run'}", "device=cpu",
                              f"out={tmp_path / 'again'}"))  # fmt: skip
    with Image.open(written[0]) as one, Image.open(again[0]) as other:
        assert one.tobytes() == other.tobytes()


def test_what_cannot_sign_is_one_line(sign, tmp_path):
    (tmp_path / "none.pem").write_text("no certificate")
    with pytest.raises(UserError, match=r"^sign\.certificate=.*none\.pem cannot sign: .*$"):
        Signer(asked([f"sign.certificate={tmp_path / 'none.pem'}", sign[1]]))
    with pytest.raises(UserError, match=r"^sign\.certificate=.* cannot sign: .*$"):
        Signer(asked([*sign, "sign.algorithm=ps256"]))
    with pytest.raises(UserError, match=r"^sign\.certificate=.* (cannot sign|its signature is not valid): .*$"):
        Signer(asked(settings(tmp_path, days=-1)))
    with pytest.raises(UserError, match="give both files"):
        asked(sign[:1])
    with pytest.raises(UserError, match=r"sign\.key=.*missing.* does not exist"):
        asked([sign[0], f"sign.key={tmp_path / 'missing'}"])
