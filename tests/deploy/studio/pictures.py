"""Picture files as other programs write them, and as nobody should."""

import struct
import zlib


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks):
    """A grey pixel, with chunks of one's own before it."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", zlib.compress(b"\0\x80")) + chunk(b"IEND", b"")


def compressed_text(key, text):
    return chunk(b"zTXt", key.encode() + b"\0\0" + zlib.compress(text.encode("latin-1")))


def without_xmp(jpeg):
    """A JPEG that has only its EXIF left, as some programs leave it."""
    out, at = bytearray(jpeg[:2]), 2
    while jpeg[at + 1] != 0xDA:
        end = at + 2 + struct.unpack(">H", jpeg[at + 2:at + 4])[0]
        if not jpeg[at:end].startswith(b"\xff\xe1" + jpeg[at + 2:at + 4] + b"http://ns.adobe.com"):
            out += jpeg[at:end]
        at = end
    return bytes(out + jpeg[at:])


def exif(*, entries, big_endian=False):
    """A JPEG's APP1 of EXIF whose first directory has these (tag, type, count, value or offset) entries."""
    order = ">" if big_endian else "<"
    block = (b"MM\0*" if big_endian else b"II*\0") + struct.pack(order + "IH", 8, len(entries))
    block += b"".join(struct.pack(order + "HHII", *entry) for entry in entries) + b"\0\0\0\0"
    data = b"Exif\0\0" + block
    return b"\xff\xd8\xff\xe1" + struct.pack(">H", len(data) + 2) + data + b"\xff\xd9"


def hostile(good):
    """Names and bytes of files that lie about their lengths, never end, explode or point at themselves. good: whole files by their ending."""
    for ending, data in good.items():
        yield f"cut-in-header.{ending}", data[:13]
        for share in (0.02, 0.1, 0.5):
            yield f"cut-at-{share}.{ending}", data[:int(len(data) * share)]
        yield f"ff.{ending}", data[:16] + b"\xff" * 4096
    yield "endless-chunk.png", b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 0xFFFFFFFF) + b"tEXtparameters\0x"
    yield "no-name.png", png(chunk(b"tEXt", b"x" * 100), chunk(b"iTXt", b"parameters\0\1"), chunk(b"zTXt", b"parameters\0"))
    yield "bomb.png", png(compressed_text("parameters", "A" * (64 << 20)))
    yield "many-texts.png", png(*[chunk(b"tEXt", b"k%d\0v" % i) for i in range(20000)])
    yield "not-deflate.png", png(chunk(b"zTXt", b"parameters\0\0not deflate"))
    yield "odd-json.png", png(chunk(b"tEXt", b'fresco:provenance\0{"seed":-1,"steps":1e400,"width":"<b>","prompt":{"a":[1]},"guidance_scale":"x"}'))
    yield "deep-json.png", png(chunk(b"tEXt", b"fresco:provenance\0" + b"[" * 200000))
    yield "slow-json.png", png(chunk(b"tEXt", b'fresco:provenance\0{"a":"' + b'\\"' * 500000))
    yield "slow-line.png", png(chunk(b"tEXt", b"parameters\0x\nSteps: 1, " + b'A: "' * 250000))
    yield "loop.jpg", exif(entries=[(0x8769, 4, 1, 8)])
    yield "far.jpg", exif(entries=[(0x8769, 4, 1, 0xFFFFFFF0)], big_endian=True)
    yield "far-text.jpg", exif(entries=[(0x8769, 4, 1, 8), (0x9286, 7, 0xFFFFFFFF, 0xFFFFFFFF)])
    yield "short-segment.jpg", b"\xff\xd8\xff\xe1\0\0\xff\xe1\0\1" + b"\xff" * 64
    yield "endless-riff.webp", b"RIFF" + struct.pack("<I", 0xFFFFFFFF) + b"WEBPXMP " + struct.pack("<I", 0xFFFFFFFF) + b"<fresco:parameters>"
    yield "open-xmp.webp", b"RIFF\x40\0\0\0WEBPXMP \x20\0\0\0" + b"<fresco:<fresco:<fresco:><fresco"
