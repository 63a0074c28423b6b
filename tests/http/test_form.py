"""Names of files in forms, in each way that clients write them."""

import pytest

from app.http.form import with_plain_name


@pytest.mark.parametrize(
    ("sent", "plain"),
    [
        (b"filename*=utf-8''M%C3%BC.wav", b"filename=M%C3%BC.wav"),
        (b"filename*=UTF-8'en'a%20b.wav; x=y", b"filename=a%20b.wav; x=y"),
        (b"FileName* = \"iso-8859-1''M%FC.wav\"", b'filename="M%FC.wav"'),
        (b'filename*0="a long "; filename*1="name.wav"', b'filename="a long name.wav"'),
        (
            b"filename*0*=utf-8'en'M%C3%BC; filename*1=1; filename*2*=%2Ewav",
            b'filename="M%C3%BC1%2Ewav"',
        ),
        (b"filename*=v.wav", b"filename*=v.wav"),
        (b'filename="v.wav"', b'filename="v.wav"'),
        (b"filename=v.wav; filename*=utf-8''w.wav", b"filename=v.wav; filename*=utf-8''w.wav"),
        (b"filename*=utf-8''w.wav; FILENAME=v.wav", b"filename*=utf-8''w.wav; FILENAME=v.wav"),
    ],
)
def test_extended_name_counts_if_there_is_no_plain_one(sent: bytes, plain: bytes) -> None:
    start = b'form-data; name="file"; '
    assert with_plain_name(start + sent) == start + plain
