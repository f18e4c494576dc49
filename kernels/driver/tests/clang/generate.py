#!/usr/bin/env python3
"""Writes random.c and compiles it and written.c to PTX with Debian's clang-19 (apt-get install clang-19).

    generate.py [DIRECTORY [SEED]]

writes to this directory or to another one; another seed draws other functions. CLANG names another clang. The outputs
are committed, so that the tests need no clang. The first line of each PTX file is a checksum of the C sources, by which
the test notices that they are stale.
"""

import os
import pathlib
import random
import shutil
import subprocess
import sys
import zlib

FUNCTIONS = 40
INTEGERS, FLOATS = ["i32", "u32", "i64", "u64"], ["f32", "f64"]
INPUTS = {"i32": "ab", "u32": "uv", "i64": "pq", "u64": "rs", "f32": "xy", "f64": "de"}
WIDTH = {"i32": 31, "u32": 31, "i64": 63, "u64": 63}


class Writer:
    """A random function: typed expressions over the record and a few locals, with branches and bounded loops."""

    def __init__(self, rng):
        self.rng, self.locals, self.lines, self.depth = rng, [], [], 1

    def constant(self, ty):
        if ty in FLOATS:
            return self.rng.choice(["0.0", "1.0", "-0.5", "3.0", "0.1", "-7.25", "1e10", "-1e-10"]) + ("f" if ty == "f32" else "")
        value = self.rng.choice([0, 1, 2, 3, 7, 31, 255, 65535, 0x7fffffff, self.rng.getrandbits(30)])
        return f"({ty}){value}"

    def leaf(self, ty):
        names = [name for name, t in self.locals if t == ty] + [f"in.{c}" for c in INPUTS[ty]]
        return self.constant(ty) if self.rng.random() < 0.2 else self.rng.choice(names)

    def condition(self, depth):
        ty = self.rng.choice(INTEGERS + FLOATS)
        test = f"({self.expression(ty, depth)} {self.rng.choice(['<', '<=', '>', '>=', '==', '!='])} {self.expression(ty, depth)})"
        if self.rng.random() < 0.25:
            return f"({test} {self.rng.choice(['&&', '||'])} {self.condition(depth - 1)})" if depth > 0 else test
        return f"!{test}" if self.rng.random() < 0.2 else test

    def expression(self, ty, depth):
        if depth <= 0:
            return self.leaf(ty)
        one, two = (lambda: self.expression(ty, depth - 1)), (lambda: self.expression(ty, depth - 2))
        if self.rng.random() < 0.15:
            return f"({self.condition(depth - 2)} ? {one()} : {two()})"
        if self.rng.random() < 0.2:
            other = self.rng.choice([t for t in INTEGERS + FLOATS if t != ty])
            value = self.expression(other, depth - 1)
            return f"to_{ty}({value})" if ty in INTEGERS and other in FLOATS else f"(({ty}){value})"
        if ty in FLOATS:
            suffix = "f" if ty == "f32" else ""
            form = self.rng.choice(["{a} + {b}", "{a} - {b}", "{a} * {b}", "{a} / {b}", "-({a})", "fma", "sqrt"])
            if form == "fma":
                return f"__builtin_fma{suffix}({one()}, {two()}, {two()})"
            if form == "sqrt":
                return f"__builtin_sqrt{suffix}(__builtin_fabs{suffix}({one()}))"
            return f"({form.format(a=one(), b=two())})"
        mask = WIDTH[ty]
        form = self.rng.choice(
            ["{a} + {b}", "{a} - {b}", "{a} * {b}", "{a} & {b}", "{a} | {b}", "{a} ^ {b}", "~{a}", "-({a})",
             "{a} << ({b} & {mask})", "{a} >> ({b} & {mask})", "div_{ty}({a}, {b})", "rem_{ty}({a}, {b})"])
        return f"({form.format(a=one(), b=two(), ty=ty, mask=mask)})"

    def write(self, line):
        self.lines.append("    " * self.depth + line)

    def statements(self, count, nesting):
        for _ in range(count):
            kind = self.rng.random()
            if kind < 0.55 or nesting == 0:
                if self.locals and self.rng.random() < 0.6:
                    name, ty = self.rng.choice(self.locals)
                    self.write(f"{name} = {self.expression(ty, self.rng.randint(1, 3))};")
                else:
                    ty = self.rng.choice(INTEGERS + FLOATS)
                    value = self.expression(ty, self.rng.randint(1, 3))
                    # Declared at the top of the function, so that every later line may name it.
                    self.locals.append((f"t{len(self.locals)}", ty))
                    self.write(f"{self.locals[-1][0]} = {value};")
            elif kind < 0.8:
                self.block(f"if ({self.condition(2)}) {{", nesting)
                if self.rng.random() < 0.5:
                    self.lines.pop()
                    self.block("} else {", nesting)
            else:
                index = f"i{nesting}"
                self.block(f"for (u32 {index} = 0; {index} < ({self.expression('u32', 1)} & 7); {index}++) {{", nesting)

    def block(self, head, nesting):
        self.write(head)
        self.depth += 1
        self.statements(self.rng.randint(1, 3), nesting - 1)
        if head.startswith("for") and self.rng.random() < 0.4:
            self.write(f"if ({self.condition(1)}) {self.rng.choice(['break', 'continue', 'return 7'])};")
        self.depth -= 1
        self.write("}")

    def function(self, name):
        self.statements(4, 2)
        declarations = [f"    {ty} {local} = 0;" for local, ty in self.locals]
        total = " ^ ".join(f"bits_{ty}({n}) << {i % 32}" if ty in FLOATS else f"(i64){n} << {i % 32}" for i, (n, ty) in enumerate(self.locals))
        return "\n".join([f"FUNCTION({name}) {{", *declarations, *self.lines, f"    return {total};", "}"])


def main():
    here = pathlib.Path(__file__).parent
    directory = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here
    rng = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 2024)
    functions = [Writer(rng).function(f"random_{i}") for i in range(FUNCTIONS)]
    (directory / "random.c").write_text('// Written by generate.py.\n#include "differential.h"\n\n' + "\n\n".join(functions) + "\n")
    if directory != here:
        for file in ["differential.h", "written.c"]:
            shutil.copy(here / file, directory)
    for source, level in [("written", 0), ("written", 2), ("random", 2)]:
        output, source = directory / f"{source}_O{level}.ptx", directory / f"{source}.c"
        subprocess.run(
            [os.environ.get("CLANG", "clang-19"), "--target=nvptx64-nvidia-cuda", "-march=sm_80", "-Xclang", "-target-feature",
             "-Xclang", "+ptx80", "-ffp-contract=off", "-fwrapv", "-w", f"-O{level}", "-S", source, "-o", output], check=True)
        checksum = zlib.crc32((directory / "differential.h").read_bytes() + source.read_bytes())
        output.write_text(f"// {checksum:08x}\n{output.read_text()}")


main()
