"""A local block that nobody needs, and the edits that add it: those of CONTRIBUTING.md, by file.

twice_depth: an mbconv with a second depthwise convolution.
"""

KIND = "twice_depth"
CHAIN = f"""
    if block.kind == "{KIND}":
        second = Convolution("second_conv", mid, mid, size, groups=mid)
        return Convolution("inverted_conv", block.in_channels, mid), depth, second, point
    if block.kind == "dsconv":
"""
# by file: pairs of a text that stands there once, and what takes its place
EDITS: dict[str, list[tuple[str, str]]] = {
    "supernet/arch.py": [('    "dsconv",  #', f'    "{KIND}",\n    "dsconv",  #')],
    "supernet/convolutions.py": [('\n    if block.kind == "dsconv":\n', CHAIN)],
}
