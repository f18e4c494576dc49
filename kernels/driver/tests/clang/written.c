// Small algorithms, chosen for the instructions that compilers make of them.
#include "differential.h"

#define NOINLINE __attribute__((noinline))

FUNCTION(arithmetic_32) {
    u32 h = in.u;
    h = h * 0x9e3779b1u + in.v;
    h ^= h >> 15;
    h *= 0x85ebca6bu;
    i32 k = in.a - in.b * 3 + (in.a >> 5) - (in.b << 7);
    return (i64)(h ^ (u32)k) << 8 | (u32)(k & 0xff);
}

FUNCTION(arithmetic_64) {
    u64 h = in.r * 0xff51afd7ed558ccdull + in.s;
    h ^= h >> 33;
    return (i64)(h + (u64)(in.p * in.q) - (u64)(in.p >> 9));
}

FUNCTION(high_products) {
    u64 a = (u64)(((unsigned __int128)in.r * in.s) >> 64);
    i64 b = (i64)(((__int128)in.p * in.q) >> 64);
    u32 c = (u32)(((u64)in.u * in.v) >> 32);
    i32 d = (i32)(((i64)in.a * in.b) >> 32);
    return (i64)(a ^ (u64)b) + c - d;
}

FUNCTION(divisions) {
    i64 a = div_i32(in.a, in.b) * 3 + rem_i32(in.a, in.b) + div_u32(in.u, in.v) - rem_u32(in.u, in.v);
    i64 b = div_i64(in.p, in.q) ^ rem_i64(in.p, in.q) ^ (i64)div_u64(in.r, in.s) ^ (i64)rem_u64(in.r, in.s);
    return a * 31 + b + in.a / 7 + in.u % 10 + in.p / 1000003 + (i64)(in.r % 12);
}

FUNCTION(bits) {
    u32 c = __builtin_popcount(in.u) + 40 * __builtin_clz(in.u | 1) + 2000 * __builtin_ctz(in.v | 0x80000000u);
    u64 d = __builtin_popcountll(in.r) + 70 * __builtin_clzll(in.r | 1) + 9000 * __builtin_ctzll(in.s | 1ull << 63);
    return (i64)(c ^ d << 20) ^ __builtin_bswap32(in.u) ^ (i64)__builtin_bswap64(in.r);
}

FUNCTION(rotations) {
    u32 k = in.v & 31;
    u64 l = in.s & 63;
    u32 a = in.u << k | in.u >> (-k & 31);
    u64 b = in.r >> l | in.r << (-l & 63);
    return (i64)(a ^ b) + (in.a >> (in.b & 31)) + (in.p >> (in.q & 63)) + ((signed char)in.a) * (short)in.b;
}

FUNCTION(single) {
    f32 s = in.x + in.y, d = in.x - in.y, p = in.x * in.y, q = in.x / in.y;
    f32 f = __builtin_fmaf(in.x, in.y, s), r = __builtin_sqrtf(__builtin_fabsf(d));
    return bits_f32(s) ^ bits_f32(d) << 1 ^ bits_f32(p) << 2 ^ bits_f32(q) << 3 ^ bits_f32(f) << 4 ^ bits_f32(r) << 5;
}

FUNCTION(twofold) {
    f64 s = in.d + in.e, d = in.d - in.e, p = in.d * in.e, q = in.d / in.e;
    f64 f = __builtin_fma(in.d, in.e, s), r = __builtin_sqrt(__builtin_fabs(d));
    return bits_f64(s) ^ bits_f64(d) << 1 ^ bits_f64(p) << 2 ^ bits_f64(q) << 3 ^ bits_f64(f) << 4 ^ bits_f64(r) << 5;
}

FUNCTION(comparisons) {
    u32 m = 0;
    f32 x = in.x, y = in.y;
    f64 d = in.d, e = in.e;
    m |= (x < y) << 0 | (x <= y) << 1 | (x > y) << 2 | (x >= y) << 3 | (x == y) << 4 | (x != y) << 5;
    m |= (!(x < y)) << 6 | (!(x >= y)) << 7 | __builtin_isunordered(x, y) << 8;
    m |= (d < e) << 9 | (d <= e) << 10 | (d == e) << 11 | (d != e) << 12 | (!(d > e)) << 13;
    m |= (u32)(in.a < in.b) << 14 | (u32)(in.u < in.v) << 15 | (u32)(in.p <= in.q) << 16 | (u32)(in.r >= in.s) << 17;
    m |= (u32)(in.a == (i32)in.u) << 18 | (u32)((u32)in.b > in.v) << 19;
    return m;
}

FUNCTION(conversions) {
    i64 a = bits_f32((f32)in.a) ^ bits_f32((f32)in.u) << 1 ^ bits_f32((f32)in.p) << 2 ^ bits_f32((f32)in.r) << 3;
    i64 b = bits_f64((f64)in.a) ^ bits_f64((f64)in.u) << 1 ^ bits_f64((f64)in.p) << 2 ^ bits_f64((f64)in.r) << 3;
    i64 c = to_i32(in.x) ^ (i64)to_u32(in.y) << 1 ^ to_i64(in.d) << 2 ^ (i64)to_u64(in.e) << 3;
    return a ^ b << 1 ^ c << 2 ^ bits_f32((f32)in.d) << 5 ^ bits_f64((f64)in.x) << 6;
}

FUNCTION(roundings) {
    f32 x = in.x * 0x1p-20f;
    f64 d = in.d * 0x1p-30;
    i64 a = bits_f32(__builtin_floorf(x)) ^ bits_f32(__builtin_ceilf(x)) << 1 ^ bits_f32(__builtin_truncf(x)) << 2;
    i64 b = bits_f64(__builtin_floor(d)) ^ bits_f64(__builtin_ceil(d)) << 1 ^ bits_f64(__builtin_trunc(d)) << 2;
    return a ^ b << 3 ^ bits_f32(__builtin_rintf(x)) << 4 ^ bits_f64(__builtin_rint(d)) << 5;
}

FUNCTION(copied_signs) {
    f32 a = __builtin_copysignf(in.x, in.y), b = -__builtin_fabsf(in.y);
    f64 c = __builtin_copysign(in.d, in.e), d = -__builtin_fabs(in.e);
    return bits_f32(a) ^ bits_f32(b) << 7 ^ bits_f64(c) ^ bits_f64(d) << 9;
}

FUNCTION(greatest_common_divisor) {
    u32 a = in.u, b = in.v;
    while (b) {
        u32 t = a % b;
        a = b;
        b = t;
    }
    u64 c = in.r, d = in.s | 1;
    for (int i = 0; i < 40 && d; i++) {
        u64 t = c % d;
        c = d;
        d = t;
    }
    return (i64)(a + c);
}

FUNCTION(collatz) {
    u64 n = in.u & 0xfffff;
    u32 steps = 0;
    while (n > 1) {
        n = n & 1 ? 3 * n + 1 : n / 2;
        steps++;
    }
    return steps;
}

FUNCTION(switch_table) {
    i64 t = 0;
    for (u32 i = 0, u = in.u; i < 8; i++, u >>= 4) {
        switch (u & 15) {
        case 0: t += in.a; break;
        case 1: t -= in.b; break;
        case 2: t ^= in.p; break;
        case 3: t = (t << 3) + 1; break;
        case 4: t += bits_f32(in.x); break;
        case 5: t *= 17; // falls through
        case 6: t += 5; break;
        case 9: return t ^ in.q;
        case 10: t >>= 2; break;
        case 12: i++; break;
        default: t += u;
        }
    }
    return t;
}

FUNCTION(local_array) {
    u32 a[16];
    for (u32 i = 0; i < 16; i++) a[i] = in.u * (i + 1) ^ in.v;
    for (u32 i = 0; i < 16; i++) {
        u32 j = a[i] & 15, t = a[j];
        a[j] = a[i] + 1;
        a[i] = t;
    }
    i64 sum = 0;
    for (u32 i = 0; i < 16; i++) sum = sum * 33 + a[i];
    return sum;
}

FUNCTION(insertion_sort) {
    i32 a[24];
    u64 state = in.r | 1;
    u32 n = 5 + in.u % 20;
    for (u32 i = 0; i < n; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        a[i] = (i32)(state >> 20);
    }
    for (u32 i = 1; i < n; i++) {
        i32 k = a[i];
        u32 j = i;
        for (; j > 0 && a[j - 1] > k; j--) a[j] = a[j - 1];
        a[j] = k;
    }
    i64 h = 0;
    for (u32 i = 0; i < n; i++) h = h * 1000003 + a[i];
    return h;
}

static NOINLINE u32 ackermann_like(u32 m, u32 n) {
    u32 k = m * 31 + n;
    for (u32 i = 0; i < (n & 7); i++) k = k * 5 + (k >> 3);
    return k;
}
static NOINLINE f64 polynomial(f64 x, const f64 *c, u32 n) {
    f64 y = 0;
    for (u32 i = 0; i < n; i++) y = y * x + c[i];
    return y;
}

FUNCTION(calls) {
    f64 c[5] = {in.d, 1.5, in.x, -2.0, 0.25};
    u32 k = in.u & 1 ? ackermann_like(in.u, in.v) : ackermann_like(in.v, ackermann_like(in.u, 3));
    return bits_f64(polynomial(in.y, c, 2 + (in.v & 3))) ^ k;
}

static const u32 K[16] = {0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
                          0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174};
#define ROTATE(x, k) ((x) >> (k) | (x) << (32 - (k)))

FUNCTION(sha256_rounds) {
    u32 s[8] = {in.u, in.v, (u32)in.a, (u32)in.b, (u32)in.r, (u32)in.s, (u32)(in.p >> 32), (u32)in.q};
    for (u32 i = 0; i < 16; i++) {
        u32 e = s[4], a = s[0];
        u32 t1 = s[7] + (ROTATE(e, 6) ^ ROTATE(e, 11) ^ ROTATE(e, 25)) + ((e & s[5]) ^ (~e & s[6])) + K[i] + i;
        u32 t2 = (ROTATE(a, 2) ^ ROTATE(a, 13) ^ ROTATE(a, 22)) + ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
        for (u32 j = 7; j > 0; j--) s[j] = s[j - 1];
        s[4] += t1;
        s[0] = t1 + t2;
    }
    return (i64)s[0] << 32 | (s[1] ^ s[7]);
}

FUNCTION(bytes_in_memory) {
    union { u64 q[4]; unsigned char b[32]; short h[16]; } m = {{in.r, in.s, (u64)in.p, (u64)in.q}};
    i64 t = 0;
    for (u32 i = 0; i < 32; i++) {
        m.b[i] = (unsigned char)(m.b[(i * 7 + in.u) & 31] + m.h[i & 15]);
        t = t * 257 + m.b[i];
    }
    return t ^ m.h[in.v & 15];
}

FUNCTION(divergent_exits) {
    f32 x = in.x;
    for (u32 i = 0; i < 100; i++) {
        if (x > 1e6f) return i;
        if (x != x) return -1;
        if (i % 3 == in.u % 3) continue;
        x = x < 0 ? -x * 0.5f : x * 1.75f + 1.0f;
        if (i > (in.v & 63)) break;
    }
    return bits_f32(x);
}

FUNCTION(mandelbrot) {
    f64 re = (in.a & 0xffff) / 32768.0 - 1.5, im = (in.b & 0xffff) / 32768.0 - 1.0, x = 0, y = 0;
    u32 i = 0;
    for (; i < 200 && x * x + y * y < 4; i++) {
        f64 t = x * x - y * y + re;
        y = 2 * x * y + im;
        x = t;
    }
    return i * 7919 + bits_f64(x);
}
