"""Writes data/: pictures by Pillow, and beside each its pixels (NAME.rgb: RGB over white, as Pillow reads them)."""

import pathlib
import struct
import sys
import zlib

from PIL import Image, PngImagePlugin

out = pathlib.Path(sys.argv[1])
W, H = 9, 5  # odd on purpose
base = Image.new("RGBA", (W, H))
base.putdata([(x * 28, y * 60, (x * y * 7) % 256, 255 - x * 20) for y in range(H) for x in range(W)])
opaque = base.convert("RGB")


def save(name, image, **options):
    image.save(out / name, **options)
    if name.startswith("animated"):
        return
    with Image.open(out / name) as written:
        if written.mode.startswith("I;16"):  # Pillow would clip these
            written = Image.frombytes("L", written.size, bytes((v * 255 + 32767) // 65535 for v in written.getdata()))
        rgba = written.convert("RGBA")
    # The formula of Porter and Duff's "over", rounded once.
    pixels = bytes((c * a + 255 * (255 - a) + 127) // 255 for r, g, b, a in rgba.getdata() for c in (r, g, b))
    (out / f"{name}.rgb").write_bytes(pixels)


save("rgb.png", opaque)
save("rgba.png", base)
save("grey_alpha.png", base.convert("LA"))
save("palette.png", base.quantize(8))
save("one_bit.png", opaque.convert("1"))
save("grey16.png", Image.frombytes("I;16", (W, H), b"".join((i * 1449).to_bytes(2, "little") for i in range(W * H))))
save("grey.jpg", opaque.convert("L"), quality=95)
save("rgb.jpg", opaque, quality=95, subsampling=0)
save("progressive.jpg", opaque, quality=95, subsampling=0, progressive=True)
save("cmyk.jpg", opaque.convert("CMYK"), quality=95)
save("lossless.webp", base, lossless=True, exact=True)
save("animated.webp", opaque, save_all=True, append_images=[Image.new("RGB", (W, H))], lossless=True)

texts = PngImagePlugin.PngInfo()
texts.add_text("Latin", "caf\u00e9")
texts.add_itxt("International", "\u6c34\u5f69")
texts.add_text("Packed", "x" * 300, zip=True)
save("texts.png", opaque, pnginfo=texts)

# A whole chunk, for tests to put into a picture as often as they like.
chunk = b"zTXtLarge\0\0" + zlib.compress(b"a" * (4 << 20), 9)
(out / "large_text.chunk").write_bytes(struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)))

for order, name in (("<", "little_endian.jpg"), (">", "big_endian.jpg")):
    exif = Image.Exif()
    exif.endian = order
    exif[0x010E] = "a red fox"
    exif[0x0131] = "Pillow"
    codec = "utf-16-le" if order == "<" else "utf-16-be"
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + "fox \U0001f98a".encode(codec)
    save(name, opaque, quality=95, subsampling=0, exif=exif)
