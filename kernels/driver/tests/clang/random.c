// Written by generate.py.
#include "differential.h"

FUNCTION(random_0) {
    f64 t0 = 0;
    u64 t1 = 0;
    u64 t2 = 0;
    u32 t3 = 0;
    t0 = ((-((in.d / in.e))) / __builtin_fma(in.d, in.e, in.e));
    if (((((-7.25 >= t0) ? (~in.r) : in.s) == (rem_u64(to_u64(t0), in.s))) || (((in.s | in.s) <= (in.r * in.r)) && (in.b != in.a)))) {
        t0 = (((f64)in.q) / in.d);
        t0 = (t0 * in.e);
    }
    for (u32 i2 = 0; i2 < ((in.u - in.u) & 7); i2++) {
        if ((to_i32((1.0f - in.x)) == ((in.v < (u32)2) ? (in.a >> (in.b & 31)) : (i32)7))) {
            t0 = ((f64)(in.u * (u32)0));
            t1 = (-((((u64)in.q) + in.r)));
            t2 = (~in.s);
        }
        t0 = ((f64)(((u64)611644148 >> ((u64)110269060 & 63)) | in.r));
        t0 = ((f64)in.y);
    }
    t3 = (((in.u ^ in.v) - in.v) | (div_u32(in.u, in.u)));
    return bits_f64(t0) << 0 ^ (i64)t1 << 1 ^ (i64)t2 << 2 ^ (i64)t3 << 3;
}

FUNCTION(random_1) {
    f64 t0 = 0;
    u64 t1 = 0;
    i32 t2 = 0;
    u64 t3 = 0;
    u32 t4 = 0;
    i32 t5 = 0;
    f32 t6 = 0;
    t0 = __builtin_fma(in.d, in.d, in.e);
    t1 = to_u64((-(__builtin_sqrtf(__builtin_fabsf(in.x)))));
    t2 = ((~((i32)1 | in.a)) | (in.a * in.b));
    if ((((rem_u32(((u32)255 & (u32)2), in.v)) <= (rem_u32((in.u * in.u), in.v))) && !((in.q | in.p) != to_i64(in.y)))) {
        if ((((f32)((u64)in.a)) != ((in.x - in.y) + in.y))) {
            t3 = (to_u64((t0 * in.e)) ^ (in.r * t1));
            t2 = (!(in.u > (u32)255) ? (in.b + in.b) : in.b);
            t0 = ((__builtin_sqrt(__builtin_fabs(in.d)) / in.e) / ((f64)in.p));
        } else {
            t3 = ((~((u64)2147483647 - in.s)) | ((t2 > (i32)3) ? (u64)0 : in.r));
            t1 = (in.s >> (t3 & 63));
            t4 = ((u32)((i64)in.u));
        }
        t5 = ((t2 != in.b) ? in.a : in.b);
        t6 = __builtin_fmaf(((f32)in.p), in.x, in.x);
    }
    return bits_f64(t0) << 0 ^ (i64)t1 << 1 ^ (i64)t2 << 2 ^ (i64)t3 << 3 ^ (i64)t4 << 4 ^ (i64)t5 << 5 ^ bits_f32(t6) << 6;
}

FUNCTION(random_2) {
    f64 t0 = 0;
    i64 t1 = 0;
    u64 t2 = 0;
    t0 = (-(in.e));
    t1 = ((i64)(u32)65535);
    t2 = (rem_u64(((in.r >> (in.s & 63)) ^ (u64)2147483647), (in.s * in.s)));
    for (u32 i2 = 0; i2 < ((in.u ^ in.v) & 7); i2++) {
        for (u32 i1 = 0; i1 < ((-(in.v)) & 7); i1++) {
            t1 = (to_i64(-1e-10) - in.q);
        }
        t0 = __builtin_fma((__builtin_sqrt(__builtin_fabs(t0)) / t0), (((i64)0 < in.q) ? -0.5 : t0), (-(t0)));
    }
    return bits_f64(t0) << 0 ^ (i64)t1 << 1 ^ (i64)t2 << 2;
}

FUNCTION(random_3) {
    u64 t0 = 0;
    u32 t1 = 0;
    f64 t2 = 0;
    f32 t3 = 0;
    t0 = ((in.e >= in.e) ? in.s : in.s);
    for (u32 i2 = 0; i2 < ((in.u - in.u) & 7); i2++) {
        t1 = ((!(in.d <= in.d) ? in.u : in.v) & in.u);
        for (u32 i1 = 0; i1 < ((!(in.u == t1) ? in.v : in.u) & 7); i1++) {
            t2 = ((((f64)in.q) / in.d) + __builtin_fma(-7.25, in.d, -0.5));
            t0 = (rem_u64((in.s - in.s), in.r));
        }
        t1 = ((((in.a == in.b) ? in.p : in.p) < ((in.s > in.r) ? in.p : in.p)) ? ((in.a < (i32)1) ? (in.v << (t1 & 31)) : in.u) : to_u32(in.x));
    }
    t3 = (in.y * in.x);
    for (u32 i2 = 0; i2 < (to_u32(t2) & 7); i2++) {
        for (u32 i1 = 0; i1 < ((in.u * (u32)2147483647) & 7); i1++) {
            t3 = __builtin_fmaf(t3, 0.0f, in.x);
            if (((~in.q) == ((i64)255 >> (in.p & 63)))) return 7;
        }
        if ((((in.b ^ in.a) > ((i32)in.r)) || (in.p < in.q))) break;
    }
    return (i64)t0 << 0 ^ (i64)t1 << 1 ^ bits_f64(t2) << 2 ^ bits_f32(t3) << 3;
}

FUNCTION(random_4) {
    i32 t0 = 0;
    u64 t1 = 0;
    i32 t2 = 0;
    i32 t3 = 0;
    t0 = (((i32)0 & in.a) ^ (i32)0);
    if (!((((in.r != in.s) ? in.v : in.u) | in.u) >= (((u32)0 * in.v) * (u32)1))) {
        t0 = (div_i32(((i32)(in.q | in.q)), (rem_i32(in.b, (i32)255))));
    } else {
        for (u32 i1 = 0; i1 < (((u32)in.r) & 7); i1++) {
            t1 = ((u64)(in.q + in.q));
            t1 = (div_u64((rem_u64((rem_u64(in.r, (u64)31)), t1)), (rem_u64(in.s, in.r))));
            t2 = ((i32)(in.q + in.p));
        }
        if (((!(in.q < in.q) ? __builtin_fma(in.d, in.d, 1.0) : -7.25) != __builtin_fma((1e10 * in.d), 1.0, in.e))) {
            t3 = to_i32(in.y);
        }
    }
    t0 = (t3 ^ t0);
    t0 = to_i32((-(-7.25)));
    return (i64)t0 << 0 ^ (i64)t1 << 1 ^ (i64)t2 << 2 ^ (i64)t3 << 3;
}

FUNCTION(random_5) {
    i64 t0 = 0;
    u32 t1 = 0;
    u32 t2 = 0;
    f32 t3 = 0;
    f64 t4 = 0;
    i64 t5 = 0;
    for (u32 i2 = 0; i2 < (((u32)in.s) & 7); i2++) {
        if ((((in.a != (i32)2147483647) ? (!(in.s != in.r) ? in.q : in.q) : in.q) >= ((in.q + in.p) << (in.q & 63)))) {
            t0 = ((div_i64(in.q, in.p)) - (i64)255);
        }
        t1 = (in.v & in.v);
        if (((to_u32(0.1f) + (u32)31) > ((t0 >= in.q) ? (in.u ^ t1) : (u32)618214146))) {
            t0 = (div_i64(t0, t0));
            t2 = ((-((u32)255)) ^ in.u);
        } else {
            t0 = (((i64)((i32)in.u)) - ((in.e > in.d) ? in.q : (i64)65535));
            t3 = __builtin_fmaf(__builtin_fmaf(__builtin_sqrtf(__builtin_fabsf(in.x)), in.x, in.x), __builtin_fmaf(1.0f, in.x, in.x), __builtin_sqrtf(__builtin_fabsf(in.y)));
        }
        if (((0.0f - t3) >= (1e10f * in.y))) continue;
    }
    t2 = (((((in.q < t0) ? t3 : in.y) == __builtin_sqrtf(__builtin_fabsf(3.0f))) || (in.p != in.q)) ? ((1e10 <= in.d) ? ((u32)in.a) : (u32)65535) : ((u32)7 >> ((u32)769597550 & 31)));
    for (u32 i2 = 0; i2 < ((div_u32(in.v, t1)) & 7); i2++) {
        if ((((in.y >= t3) ? (-(in.q)) : in.p) != (to_i64(in.x) * in.q))) {
            t3 = __builtin_sqrtf(__builtin_fabsf(-1e-10f));
            t2 = ((u32)665517103 >> (t1 & 31));
        }
        t0 = to_i64(__builtin_sqrtf(__builtin_fabsf(((in.q >= t0) ? -1e-10f : in.x))));
        if (!(((u32)2147483647 - t2) < (t2 & in.v))) return 7;
    }
    for (u32 i2 = 0; i2 < ((t1 - t2) & 7); i2++) {
        if ((to_i64(((in.r < in.r) ? -1e-10 : in.d)) >= (div_i64(((i64)in.v), t0)))) {
            t0 = (in.p & t0);
        } else {
            t3 = ((in.x - in.y) / in.x);
            t0 = (((i64)7 >= in.q) ? (div_i64(t0, (i64)1)) : (i64)7);
            t0 = to_i64(((f64)((u64)(u32)2147483647)));
        }
        if ((__builtin_fmaf(((f32)(i64)31), t3, 0.1f) >= __builtin_fmaf((t3 - t3), in.y, 1e10f))) {
            t0 = to_i64(((in.s >= in.s) ? ((f32)in.r) : in.y));
            t1 = to_u32(in.x);
            t4 = __builtin_sqrt(__builtin_fabs(__builtin_fma(in.d, in.e, in.e)));
        } else {
            t5 = ((i64)(u64)255);
            t0 = to_i64(((in.e >= in.d) ? (-0.5f / in.y) : t3));
        }
        t2 = ((~t2) >> (in.v & 31));
    }
    return (i64)t0 << 0 ^ (i64)t1 << 1 ^ (i64)t2 << 2 ^ bits_f32(t3) << 3 ^ bits_f64(t4) << 4 ^ (i64)t5 << 5;
}

FUNCTION(random_6) {
    f64 t0 = 0;
    u32 t1 = 0;
    u32 t2 = 0;
    i64 t3 = 0;
    f32 t4 = 0;
    u32 t5 = 0;
    if ((((div_u32((u32)2147483647, (u32)2)) & (u32)31) >= ((in.e >= -0.5) ? (in.u >> (in.u & 31)) : in.u))) {
        t0 = (-(((in.e + in.e) + in.d)));
    } else {
        if (!(((in.u | (u32)3) >> (in.v & 31)) != ((u32)((in.a > in.a) ? in.r : in.s)))) {
            t1 = (~(-(in.u)));
            t2 = ((u32)65535 ^ t1);
        } else {
            t3 = ((i64)((in.s ^ (u64)31) | in.s));
            t3 = to_i64(t0);
        }
    }
    t4 = ((f32)((in.b & (i32)65535) ^ (i32)65535));
    if (((((0.1f / in.x) - -1e-10f) <= __builtin_fmaf((3.0f + -0.5f), t4, in.x)) || (((in.v << (in.v & 31)) == (~t1)) && (in.x != t4)))) {
        t5 = (in.v ^ t2);
    }
    if ((((u32)((t1 > t1) ? in.s : in.r)) != ((u32)(rem_i64((i64)255, in.q))))) {
        t5 = (((in.e != in.d) ? ((u32)255 - t1) : in.u) >> ((div_u32(t2, in.v)) & 31));
        t0 = (in.e / in.e);
    }
    return bits_f64(t0) << 0 ^ (i64)t1 << 1 ^ (i64)t2 << 2 ^ (i64)t3 << 3 ^ bits_f32(t4) << 4 ^ (i64)t5 << 5;
}

FUNCTION(random_7) {
    f64 t0 = 0;
    f64 t1 = 0;
    i64 t2 = 0;
    i64 t3 = 0;
    u64 t4 = 0;
    u64 t5 = 0;
    i64 t6 = 0;
    u32 t7 = 0;
    if ((((in.y <= in.x) ? ((in.q <= in.q) ? in.v : (u32)0) : in.u) != (((i64)2147483647 >= in.q) ? ((u32)255 | in.v) : (u32)2147483647))) {
        for (u32 i1 = 0; i1 < ((-(in.u)) & 7); i1++) {
            t0 = (-0.5 + in.d);
        }
    }
    if (((((in.s | in.r) | in.r) != ((in.s << ((u64)2147483647 & 63)) & in.r)) || (((in.u + in.v) > (in.u | in.u)) && (in.p == in.p)))) {
        t1 = (t0 - 3.0);
        t0 = (((in.a <= in.b) ? t0 : t0) - 3.0);
        for (u32 i1 = 0; i1 < ((in.u >> (in.u & 31)) & 7); i1++) {
            t1 = (-(__builtin_fma(t0, in.d, t0)));
            t0 = (__builtin_sqrt(__builtin_fabs((t0 - t0))) + ((in.v <= in.v) ? 1e10 : t1));
            t2 = (in.p & in.p);
            if ((((i64)in.u) <= (t2 << (t2 & 63)))) break;
        }
    }
    if (((__builtin_sqrt(__builtin_fabs((0.0 + t1))) >= ((in.u != in.u) ? __builtin_fma(t0, 0.0, 3.0) : in.d)) && !((t2 * (i64)7) <= (t2 << ((i64)65535 & 63))))) {
        for (u32 i1 = 0; i1 < (((in.x > in.x) ? in.u : in.v) & 7); i1++) {
            t3 = ((rem_i64(in.p, t2)) << (in.q & 63));
            t3 = to_i64(__builtin_sqrt(__builtin_fabs((t1 - in.e))));
            t2 = (div_i64((i64)255, t2));
        }
        t2 = ((in.y >= in.x) ? (t3 | in.q) : in.p);
        t4 = ((u64)in.p);
    }
    if ((to_i32((in.e + 0.1)) > (-(((i32)31 >> (in.b & 31)))))) {
        for (u32 i1 = 0; i1 < ((-((u32)811833147)) & 7); i1++) {
            t5 = ((in.s > in.s) ? in.r : in.r);
            t0 = ((-(t0)) - in.e);
            if (!((-((i64)0)) > (t3 >> (t2 & 63)))) continue;
        }
        if ((((-(((i32)65535 * in.a))) >= ((i32)((u32)t3))) && (((in.b + in.b) <= (in.a - (i32)255)) || (in.a > (i32)2147483647)))) {
            t6 = ((in.q & t2) & in.p);
            t1 = ((in.x <= in.y) ? 1e10 : t1);
            t2 = ((i64)(div_i32((!(t4 > in.r) ? in.b : (i32)7), (i32)65535)));
        } else {
            t7 = (-(((in.u - in.u) << ((u32)697883800 & 31))));
            t7 = (rem_u32((div_u32(t7, (u32)1)), in.v));
            t2 = (in.q + t2);
        }
    }
    return bits_f64(t0) << 0 ^ bits_f64(t1) << 1 ^ (i64)t2 << 2 ^ (i64)t3 << 3 ^ (i64)t4 << 4 ^ (i64)t5 << 5 ^ (i64)t6 << 6 ^ (i64)t7 << 7;
}

FUNCTION(random_8) {
    f64 t0 = 0;
    u64 t1 = 0;
    u64 t2 = 0;
    f64 t3 = 0;
    i32 t4 = 0;
    f64 t5 = 0;
    u64 t6 = 0;
    i32 t7 = 0;
    u32 t8 = 0;
    t0 = (((f64)in.q) - in.d);
    t0 = __builtin_fma((((in.d < in.e) ? 1e10 : t0) + in.e), (in.d + in.e), (-(0.1)));
    if ((((-(in.r)) | in.s) != to_u64(__builtin_sqrt(__builtin_fabs(in.d))))) {
        for (u32 i1 = 0; i1 < (((u32)2147483647 << (in.u & 31)) & 7); i1++) {
            t1 = ((in.d != in.d) ? in.r : in.r);
            t2 = (in.r << ((u64)2147483647 & 63));
            t2 = (~(~in.s));
        }
        if ((((rem_i64((i64)31, in.q)) * in.q) >= to_i64((in.x - in.x)))) {
            t1 = ((u64)(((0.0 <= in.d) ? in.p : (i64)2147483647) * in.q));
        } else {
            t2 = (rem_u64(((in.s + (u64)255) - t1), (t1 * in.r)));
            t0 = ((f64)in.a);
            t0 = (t0 * 0.0);
        }
        for (u32 i1 = 0; i1 < (to_u32(in.e) & 7); i1++) {
            t3 = __builtin_fma(__builtin_fma((t0 + t0), t0, in.d), ((in.q > in.p) ? 1.0 : in.d), __builtin_fma(1.0, t0, t0));
            t4 = (in.b << (in.b & 31));
            t5 = ((in.q >= in.p) ? (0.1 + t3) : t0);
        }
    }
    if ((((((i64)in.s) << ((i64)1 & 63)) >= ((in.q & (i64)3) | in.q)) || ((~in.v) >= ((u32)in.q)))) {
        t6 = (t1 & t1);
        if ((to_i32(((in.e >= t5) ? -0.5f : in.y)) < ((in.b << (in.a & 31)) ^ (i32)65535))) {
            t7 = ((i32)65535 - t4);
            t2 = (t6 | t6);
            t8 = (in.u ^ in.v);
        }
    }
    return bits_f64(t0) << 0 ^ (i64)t1 << 1 ^ (i64)t2 << 2 ^ bits_f64(t3) << 3 ^ (i64)t4 << 4 ^ bits_f64(t5) << 5 ^ (i64)t6 << 6 ^ (i64)t7 << 7 ^ (i64)t8 << 8;
}

FUNCTION(random_9) {
    f32 t0 = 0;
    u32 t1 = 0;
    i32 t2 = 0;
    f64 t3 = 0;
    u32 t4 = 0;
    u32 t5 = 0;
    i64 t6 = 0;
    i64 t7 = 0;
    f64 t8 = 0;
    i64 t9 = 0;
    if ((((in.r - in.r) >> (in.s & 63)) >= ((div_u64((u64)1, in.r)) << (in.s & 63)))) {
        t0 = __builtin_fmaf(__builtin_fmaf(((f32)in.r), 1.0f, in.x), ((f32)in.v), (-(in.y)));
    } else {
        if ((((in.b >> (in.a & 31)) * in.a) < (((i32)in.q) >> (in.a & 31)))) {
            t0 = ((f32)in.e);
            t1 = (in.u | in.u);
        }
        if ((((i32)(in.u | t1)) > ((i32)to_u64(-1e-10)))) {
            t0 = __builtin_sqrtf(__builtin_fabsf((-((1.0f / t0)))));
            t1 = ((in.u & t1) ^ in.u);
        } else {
            t0 = ((in.b == in.a) ? in.y : t0);
            t1 = (-(((u32)(rem_i32(in.b, in.a)))));
            t1 = (((u32)(-(in.q))) ^ ((u32)760419787 * in.v));
        }
    }
    if ((((f32)(!(in.b < in.b) ? (i64)65535 : in.p)) >= (-((in.x / t0))))) {
        t2 = ((in.a * (i32)7) ^ in.b);
        for (u32 i1 = 0; i1 < (((u32)in.p) & 7); i1++) {
            t2 = (((~t2) * in.a) | (in.b << (in.b & 31)));
            t0 = ((in.y / -7.25f) / t0);
            if (((in.d + in.e) <= __builtin_fma(in.e, 1.0, 1e10))) return 7;
        }
        t3 = ((in.d < in.e) ? (-(in.d)) : in.e);
    } else {
        t3 = (0.0 / t3);
        for (u32 i1 = 0; i1 < ((in.u << (in.v & 31)) & 7); i1++) {
            t2 = (~((i32)0 << (in.a & 31)));
        }
        for (u32 i1 = 0; i1 < (((u32)in.r) & 7); i1++) {
            t0 = (in.y / in.x);
            t4 = (((u64)200388620 == in.s) ? in.v : (u32)2);
            t5 = ((u32)(t2 ^ (i32)2147483647));
        }
    }
    for (u32 i2 = 0; i2 < ((div_u32(t1, t4)) & 7); i2++) {
        if (!(((((u64)0 <= (u64)31) ? in.d : in.d) - in.e) < (((i64)2 != in.p) ? (-(t3)) : in.d))) {
            t4 = (in.u - in.u);
        }
        t6 = (((i64)((in.s == in.r) ? in.b : in.a)) << ((in.q - in.q) & 63));
        if ((((in.p - in.p) > ((in.r < in.s) ? (i64)1 : in.q)) || (t5 == t5))) break;
    }
    if ((((~(!(in.p < (i64)7) ? t2 : t2)) == (((i32)416892947 >> (in.a & 31)) >> (in.b & 31))) || !((rem_i32((i32)772213880, in.a)) != (in.a + (i32)1)))) {
        t3 = ((f64)((in.e > in.d) ? (~in.p) : in.p));
        t7 = ((in.p >> ((i64)7 & 63)) - in.q);
        t8 = (((((u32)31 - t5) < (div_u32(in.u, (u32)1))) || (0.0f >= in.y)) ? (__builtin_fma(in.e, in.d, -7.25) * t3) : ((t3 > t3) ? in.d : in.e));
    } else {
        t9 = (-(t7));
    }
    return bits_f32(t0) << 0 ^ (i64)t1 << 1 ^ (i64)t2 << 2 ^ bits_f64(t3) << 3 ^ (i64)t4 << 4 ^ (i64)t5 << 5 ^ (i64)t6 << 6 ^ (i64)t7 << 7 ^ bits_f64(t8) << 8 ^ (i64)t9 << 9;
}

FUNCTION(random_10) {
    i32 t0 = 0;
    i32 t1 = 0;
    u32 t2 = 0;
    u64 t3 = 0;
    u64 t4 = 0;
    i64 t5 = 0;
    u32 t6 = 0;
    t0 = ((i32)((!(in.v >= in.u) ? in.q : in.q) >> (in.q & 63)));
    if ((((in.d * in.e) + in.e) < (((in.v == (u32)7) ? in.d : in.e) / in.d))) {
        t0 = (((in.v == in.u) ? (div_i32(t0, t0)) : t0) | ((i32)in.u));
        if ((((u32)(in.p ^ in.q)) < (-(((u32)in.a))))) {
            t0 = (((in.d != in.e) ? (i32)7 : in.b) & in.b);
            t1 = (div_i32(t0, t0));
            t0 = (((i32)to_u64(in.x)) | to_i32(in.x));
        } else {
            t1 = (in.a >> (in.a & 31));
            t0 = (rem_i32((i32)484488823, in.a));
            t2 = (to_u32((in.x + 0.0f)) ^ (-(in.u)));
        }
        t3 = ((((u64)644405817 - in.s) - in.s) - (in.r & in.s));
    } else {
        for (u32 i1 = 0; i1 < ((~in.v) & 7); i1++) {
            t4 = (((in.v ^ in.u) < to_u32(1.0f)) ? ((in.a >= in.b) ? (in.s & t3) : (u64)3) : to_u64(-0.5f));
            t3 = (in.r | t4);
        }
        t3 = ((u64)(in.v * t2));
        t2 = (t2 << (t2 & 31));
    }
    t5 = (in.p >> (in.p & 63));
    t6 = ((!((i32)65535 < (i32)255) ? (~t2) : (u32)3) ^ to_u32(in.x));
    return (i64)t0 << 0 ^ (i64)t1 << 1 ^ (i64)t2 << 2 ^ (i64)t3 << 3 ^ (i64)t4 << 4 ^ (i64)t5 << 5 ^ (i64)t6 << 6;
}

FUNCTION(random_11) {
    f64 t0 = 0;
    f64 t1 = 0;
    i32 t2 = 0;
    if ((((in.u & in.v) >> (in.u & 31)) == (to_u32(in.x) >> ((u32)0 & 31)))) {
        t0 = (-(__builtin_fma((-(in.d)), in.d, in.e)));
    } else {
        t0 = ((-7.25 * t0) * -7.25);
    }
    t0 = ((in.s != in.s) ? (-(in.e)) : in.e);
    for (u32 i2 = 0; i2 < ((in.u << (in.v & 31)) & 7); i2++) {
        t1 = ((f64)((rem_i32((i32)2147483647, in.b)) & in.a));
        if ((__builtin_sqrt(__builtin_fabs(-1e-10)) >= (0.0 - in.d))) continue;
    }
    t2 = (div_i32((-(in.b)), in.a));
    return bits_f64(t0) << 0 ^ bits_f64(t1) << 1 ^ (i64)t2 << 2;
}

FUNCTION(random_12) {
    u64 t0 = 0;
    f64 t1 = 0;
    u64 t2 = 0;
    f64 t3 = 0;
    f32 t4 = 0;
    u32 t5 = 0;
    i64 t6 = 0;
    f32 t7 = 0;
    i64 t8 = 0;
    if (((__builtin_sqrtf(__builtin_fabsf(in.x)) + in.x) < __builtin_sqrtf(__builtin_fabsf((-(in.x)))))) {
        t0 = ((u64)(rem_u32((in.u & in.u), in.u)));
        for (u32 i1 = 0; i1 < ((in.v & in.u) & 7); i1++) {
            t0 = (in.s - in.r);
            t0 = ((t0 <= (u64)2) ? ((u64)in.v) : (u64)255);
            t1 = ((in.e - 3.0) / in.d);
        }
    } else {
        for (u32 i1 = 0; i1 < (to_u32(in.y) & 7); i1++) {
            t2 = ((~(u64)2) ^ in.r);
            t0 = ((((in.e == 0.1) ? in.u : in.u) <= (-(in.v))) ? (div_u64((t0 * in.r), t2)) : (div_u64(t0, in.r)));
            t2 = (((u64)((i32)31 - in.a)) + to_u64(in.y));
        }
    }
    if ((((rem_i64(((-0.5f <= in.y) ? in.q : in.p), in.p)) < (((in.a < in.b) ? in.q : in.p) >> (in.q & 63))) && ((~in.r) > ((u64)in.p)))) {
        t1 = (0.0 * in.d);
        if ((((in.e >= in.d) ? ((in.s <= (u64)2) ? -1e-10f : in.y) : in.y) >= ((f32)(in.b * (i32)1)))) {
            t2 = (in.r | t0);
        } else {
            t3 = __builtin_sqrt(__builtin_fabs((-(((f64)t0)))));
            t4 = __builtin_fmaf((__builtin_sqrtf(__builtin_fabsf(in.x)) / -0.5f), (in.y + in.x), __builtin_sqrtf(__builtin_fabsf(in.y)));
        }
    } else {
        t2 = ((in.r - in.s) | t2);
        for (u32 i1 = 0; i1 < ((in.v * in.v) & 7); i1++) {
            t0 = ((u64)2 | t2);
            t5 = ((-((in.u - in.u))) & (in.u ^ in.v));
            t0 = ((~((u64)t5)) | (in.r >> (t2 & 63)));
            if (((-1e-10 - t1) != (in.e + t3))) break;
        }
        t6 = (div_i64((~(((u32)31 <= in.u) ? (i64)3 : (i64)31)), ((in.r > (u64)1) ? in.q : in.q)));
    }
    t7 = ((f32)(((in.r > (u64)65095906) ? -1e-10 : t3) + -1e-10));
    t8 = ((in.p | (i64)3) - in.q);
    return (i64)t0 << 0 ^ bits_f64(t1) << 1 ^ (i64)t2 << 2 ^ bits_f64(t3) << 3 ^ bits_f32(t4) << 4 ^ (i64)t5 << 5 ^ (i64)t6 << 6 ^ bits_f32(t7) << 7 ^ (i64)t8 << 8;
}

FUNCTION(random_13) {
    i64 t0 = 0;
    u64 t1 = 0;
    f64 t2 = 0;
    i64 t3 = 0;
    i32 t4 = 0;
    f64 t5 = 0;
    for (u32 i2 = 0; i2 < ((in.v * in.v) & 7); i2++) {
        t0 = (rem_i64(in.p, in.q));
        t0 = ((i64)0 + (i64)3);
    }
    for (u32 i2 = 0; i2 < (((u32)in.p) & 7); i2++) {
        t0 = (in.q & t0);
    }
    t1 = to_u64(((in.e * in.d) + 0.0));
    if (((rem_u64((~in.r), t1)) <= (((u64)in.a) ^ in.r))) {
        t1 = (rem_u64(in.s, t1));
        for (u32 i1 = 0; i1 < ((in.u >> ((u32)31 & 31)) & 7); i1++) {
            t0 = (!(in.r <= t1) ? (rem_i64(t0, (i64)255)) : in.q);
            t2 = (((t0 == t0) ? (1.0 - in.d) : 0.1) * (in.e * in.e));
        }
    } else {
        for (u32 i1 = 0; i1 < (((in.u != (u32)2147483647) ? in.u : (u32)0) & 7); i1++) {
            t3 = (in.q & (i64)65535);
            t4 = to_i32(in.x);
            t5 = (in.d / in.d);
            if (((-(in.y)) == (in.x * 3.0f))) continue;
        }
    }
    return (i64)t0 << 0 ^ (i64)t1 << 1 ^ bits_f64(t2) << 2 ^ (i64)t3 << 3 ^ (i64)t4 << 4 ^ bits_f64(t5) << 5;
}

FUNCTION(random_14) {
    f64 t0 = 0;
    f32 t1 = 0;
    f32 t2 = 0;
    t0 = __builtin_fma(((((u64)1 <= in.s) ? in.e : in.e) * in.e), ((f64)in.u), (3.0 * in.e));
    t1 = (((f32)(in.a >> (in.b & 31))) - ((in.s == in.r) ? in.y : in.y));
    t2 = __builtin_sqrtf(__builtin_fabsf(((in.x >= 0.1f) ? in.x : t1)));
    t1 = ((-(t2)) / in.y);
    return bits_f64(t0) << 0 ^ bits_f32(t1) << 1 ^ bits_f32(t2) << 2;
}

FUNCTION(random_15) {
    f64 t0 = 0;
    u32 t1 = 0;
    t0 = (-0.5 * in.d);
    t0 = ((in.p <= in.q) ? in.e : in.e);
    if (((((u32)in.b) << (in.u & 31)) > ((u32)((i32)in.p)))) {
        for (u32 i1 = 0; i1 < ((~(u32)7) & 7); i1++) {
            t0 = ((f64)in.y);
            if (((in.e / in.e) <= ((f64)in.q))) continue;
        }
        if (((((f32)((in.y > in.y) ? in.q : in.q)) < ((in.x - in.y) * in.x)) && (((div_i32(in.b, in.b)) > (rem_i32(in.a, in.a))) || (in.r == in.r)))) {
            t0 = (t0 / t0);
        }
    }
    if ((((u32)(rem_i64(in.q, (i64)3))) <= ((~in.u) >> (in.v & 31)))) {
        t1 = (((in.e > 0.0) ? ((in.x > in.x) ? (u32)7 : (u32)1) : in.u) ^ to_u32(in.y));
        if (((to_i64(t0) + in.q) > (!((i32)2 > in.b) ? (-(in.q)) : in.q))) {
            t1 = (((in.v - t1) | in.v) ^ (in.v | (u32)1));
            t1 = ((~(-(t1))) & ((in.y == in.y) ? in.v : in.u));
            t1 = (((in.q != in.p) ? in.u : in.v) & t1);
        } else {
            t0 = ((((f64)in.u) + in.d) - __builtin_sqrt(__builtin_fabs(in.e)));
        }
    }
    return bits_f64(t0) << 0 ^ (i64)t1 << 1;
}

FUNCTION(random_16) {
    u32 t0 = 0;
    f32 t1 = 0;
    u64 t2 = 0;
    i32 t3 = 0;
    i32 t4 = 0;
    u32 t5 = 0;
    f32 t6 = 0;
    f64 t7 = 0;
    for (u32 i2 = 0; i2 < ((in.u ^ in.v) & 7); i2++) {
        if (((~((i32)1 >> (in.a & 31))) < (-((((i32)3 <= (i32)239478628) ? in.b : in.b))))) {
            t0 = ((in.u ^ in.u) - in.v);
            t0 = (((~(u32)255) & in.v) ^ (in.u >> (in.u & 31)));
            t0 = (rem_u32(((t0 > in.v) ? in.u : in.u), in.u));
        }
        t0 = (-(((u32)(in.q ^ (i64)2))));
    }
    for (u32 i2 = 0; i2 < ((!(0.1 != in.d) ? in.v : t0) & 7); i2++) {
        t0 = ((~in.u) | in.u);
        t1 = (-(__builtin_fmaf(((f32)(i64)7), in.x, in.y)));
        t1 = (((f32)(in.u ^ in.v)) - __builtin_fmaf(in.y, in.x, -1e-10f));
    }
    t2 = (in.r | (u64)31);
    if ((((i64)((i32)3 >> ((i32)7 & 31))) == ((in.q << ((i64)2147483647 & 63)) - in.p))) {
        if ((((((u64)in.q) & in.s) < ((u64)(rem_u32((u32)1, t0)))) || ((~in.a) <= (((u64)383781676 != in.r) ? in.a : in.b)))) {
            t3 = ((in.e < in.d) ? in.a : in.a);
        }
        for (u32 i1 = 0; i1 < (((u32)in.r) & 7); i1++) {
            t0 = (div_u32(((in.y >= t1) ? in.u : in.v), t0));
        }
    } else {
        t1 = (in.x + in.y);
        t4 = ((in.v > in.u) ? (-((i32)7)) : in.b);
        if ((((rem_i32(t4, in.a)) + in.a) < (~(t4 >> (in.a & 31))))) {
            t5 = ((in.v * in.v) ^ in.u);
            t3 = (-((t4 ^ t4)));
        } else {
            t6 = (-(in.x));
            t7 = ((f64)(((u32)0 << (in.u & 31)) & t0));
            t1 = (((u64)0 == in.r) ? (t6 - in.x) : in.x);
        }
    }
    return (i64)t0 << 0 ^ bits_f32(t1) << 1 ^ (i64)t2 << 2 ^ (i64)t3 << 3 ^ (i64)t4 << 4 ^ (i64)t5 << 5 ^ bits_f32(t6) << 6 ^ bits_f64(t7) << 7;
}

FUNCTION(random_17) {
    i64 t0 = 0;
    i64 t1 = 0;
    f32 t2 = 0;
    u32 t3 = 0;
    u32 t4 = 0;
    i32 t5 = 0;
    u32 t6 = 0;
    u64 t7 = 0;
    u64 t8 = 0;
    f32 t9 = 0;
    if (((((f32)(in.d - in.d)) > ((in.p != in.q) ? ((f32)in.u) : in.y)) && (((-0.5f / in.x) != (in.x + in.x)) || ((u32)7 != in.u)))) {
        if (((((in.d * 1e10) * in.e) >= (-((in.d - in.d)))) && ((div_i32(in.a, in.a)) >= (rem_i32((i32)255, in.a))))) {
            t0 = ((((f64)in.r) >= __builtin_fma(-7.25, in.d, in.e)) ? ((in.q | in.p) ^ in.q) : ((i64)in.r));
        } else {
            t1 = (((i64)1 | t0) | in.p);
            t2 = (-((-((in.x + in.x)))));
        }
        if (!(((in.y <= in.y) ? (-(in.r)) : in.r) < ((in.s < (u64)3) ? ((t1 < in.q) ? in.r : in.s) : in.s))) {
            t3 = ((t2 <= in.x) ? (u32)2147483647 : in.u);
        }
    }
    t2 = (!((~(i64)2) > (t0 & t1)) ? (((f32)in.p) + in.y) : ((f32)in.p));
    if ((((in.d == in.e) ? (~in.s) : in.r) != (rem_u64((-((u64)65535)), in.r)))) {
        t4 = (((u32)in.a) >> (in.v & 31));
    } else {
        for (u32 i1 = 0; i1 < ((t3 | (u32)255) & 7); i1++) {
            t5 = (div_i32(to_i32(__builtin_fmaf(-0.5f, in.x, in.x)), (div_i32(in.b, in.b))));
            t6 = ((div_u32((rem_u32(t3, t4)), in.u)) << (((t0 == (i64)680205971) ? (u32)79544462 : t3) & 31));
            if (((3.0 * in.e) == (in.e * in.d))) return 7;
        }
        t7 = (((in.b & in.a) == ((i32)31 << (t5 & 31))) ? (((u64)0 ^ in.s) << (in.r & 63)) : (in.s | in.r));
    }
    for (u32 i2 = 0; i2 < ((t3 * in.v) & 7); i2++) {
        if (((to_u64(in.y) << (t7 & 63)) < (((u32)0 <= t3) ? (-((u64)31)) : (u64)641469115))) {
            t0 = ((in.p << (in.q & 63)) << (in.q & 63));
            t8 = ((in.r << ((u64)7 & 63)) - in.r);
            t1 = ((to_i64(in.x) * t0) | (t1 & in.p));
        } else {
            t6 = ((in.e >= in.d) ? ((in.p != t1) ? t4 : t3) : in.u);
            t9 = (in.y / in.x);
        }
        if (!((t9 * in.x) != (t2 + in.y))) return 7;
    }
    return (i64)t0 << 0 ^ (i64)t1 << 1 ^ bits_f32(t2) << 2 ^ (i64)t3 << 3 ^ (i64)t4 << 4 ^ (i64)t5 << 5 ^ (i64)t6 << 6 ^ (i64)t7 << 7 ^ (i64)t8 << 8 ^ bits_f32(t9) << 9;
}

FUNCTION(random_18) {
    u32 t0 = 0;
    u64 t1 = 0;
    f64 t2 = 0;
    f32 t3 = 0;
    i32 t4 = 0;
    f64 t5 = 0;
    i32 t6 = 0;
    if ((((u32)(~in.a)) > to_u32(((f32)(u64)31)))) {
        t0 = (div_u32(to_u32(in.e), in.u));
        for (u32 i1 = 0; i1 < ((-(in.u)) & 7); i1++) {
            t0 = (((in.u ^ in.u) >> (in.u & 31)) + to_u32(in.d));
            if ((((u64)2147483647 ^ in.s) < (div_u64(in.s, in.s)))) break;
        }
    } else {
        if (!(((in.q != in.q) ? (rem_i64((i64)154373303, (i64)2)) : (i64)7) == ((in.v != in.v) ? (in.p ^ (i64)2147483647) : (i64)1))) {
            t0 = ((in.v != t0) ? in.u : in.u);
            t1 = ((((u64)3 >> (in.s & 63)) == (-(in.s))) ? (((in.d < in.e) ? (u64)0 : in.r) << (in.s & 63)) : ((in.x < 1e10f) ? in.r : in.s));
        } else {
            t1 = (div_u64(((!(in.d == in.d) ? in.s : (u64)255) ^ in.s), (div_u64(in.r, t1))));
            t2 = (in.d + -0.5);
            t0 = (((rem_u64(in.r, (u64)255)) >= (!(in.q >= in.q) ? (u64)2 : in.s)) ? (((u32)1 == t0) ? to_u32(in.e) : (u32)65535) : ((-7.25f < in.x) ? in.v : (u32)7));
        }
    }
    for (u32 i2 = 0; i2 < ((in.u >> ((u32)2 & 31)) & 7); i2++) {
        t3 = ((f32)(rem_i32((in.b ^ in.a), (i32)980168375)));
        if (((~(in.u ^ in.u)) != ((in.v > in.u) ? ((u32)65535 * in.v) : t0))) {
            t1 = (~((in.r - in.s) * t1));
        }
        t4 = (in.b & in.b);
        if (((div_u32(t0, (u32)0)) >= (in.u | in.v))) continue;
    }
    t5 = (((t2 / in.d) - t2) / (((i64)3 >= in.p) ? 1e10 : 1e10));
    for (u32 i2 = 0; i2 < (((in.x <= in.y) ? in.v : in.v) & 7); i2++) {
        t6 = to_i32((in.y + in.x));
        t2 = __builtin_sqrt(__builtin_fabs((((t3 != 3.0f) ? 1e10 : -7.25) + in.d)));
    }
    return (i64)t0 << 0 ^ (i64)t1 << 1 ^ bits_f64(t2) << 2 ^ bits_f32(t3) << 3 ^ (i64)t4 << 4 ^ bits_f64(t5) << 5 ^ (i64)t6 << 6;
}

FUNCTION(random_19) {
    f32 t0 = 0;
    i64 t1 = 0;
    t0 = (((f32)(in.a - in.a)) - (-(in.y)));
    t1 = ((in.q + in.q) + in.q);
    if (((~(-(in.r))) < ((t1 == in.q) ? (in.r >> (in.s & 63)) : in.r))) {
        t1 = ((in.p | t1) * t1);
        t0 = ((f32)t1);
        t0 = (1e10f + t0);
    }
    t1 = (div_i64(((i64)255 * in.q), t1));
    return bits_f32(t0) << 0 ^ (i64)t1 << 1;
}

FUNCTION(random_20) {
    i64 t0 = 0;
    i64 t1 = 0;
    f64 t2 = 0;
    u32 t3 = 0;
    u32 t4 = 0;
    if ((((1.0f - in.y) + in.y) == (-(((f32)in.q))))) {
        t0 = ((i64)31 | in.q);
        for (u32 i1 = 0; i1 < (to_u32(in.y) & 7); i1++) {
            t0 = ((i64)2 | in.p);
            if (((in.s - in.r) >= ((in.v < in.u) ? in.s : in.s))) break;
        }
        t1 = (~((i64)in.u));
    } else {
        t2 = ((in.u > in.u) ? in.e : in.e);
        t1 = (~((in.s == in.r) ? (in.q + in.q) : t0));
    }
    t3 = (((in.u >> (in.v & 31)) & in.v) ^ to_u32(in.x));
    for (u32 i2 = 0; i2 < ((!(in.q > (i64)3) ? (u32)65535 : t3) & 7); i2++) {
        t4 = (rem_u32(((t3 ^ (u32)1) << (in.v & 31)), ((u32)7 | t3)));
        if (((((u64)in.a) != (-(in.s))) && (in.u > t3))) break;
    }
    t0 = (((in.b != (i32)3) ? t1 : in.q) + (i64)0);
    return (i64)t0 << 0 ^ (i64)t1 << 1 ^ bits_f64(t2) << 2 ^ (i64)t3 << 3 ^ (i64)t4 << 4;
}

FUNCTION(random_21) {
    u32 t0 = 0;
    i64 t1 = 0;
    i64 t2 = 0;
    u32 t3 = 0;
    i64 t4 = 0;
    u32 t5 = 0;
    t0 = ((in.d < in.d) ? (in.v * in.v) : in.v);
    t0 = ((!(in.q <= (i64)2) ? in.v : t0) ^ t0);
    t1 = (~((i64)(!(in.e >= in.d) ? in.r : (u64)2147483647)));
    if (((to_u32(in.y) * (u32)1) >= (to_u32(1e10f) & (u32)23349))) {
        if (!(((in.q == in.q) ? (in.s - in.s) : in.s) == ((in.s | in.s) * in.r))) {
            t0 = (~t0);
            t1 = (!((div_i64((i64)408123375, (i64)2147483647)) <= ((in.e > in.e) ? t1 : in.q)) ? (~(~(i64)2)) : ((i64)1 * in.q));
        } else {
            t0 = (((in.b <= (i32)1) ? (u32)65535 : in.u) & t0);
            t2 = ((i64)(u32)65535);
        }
    } else {
        t3 = (((div_u32(in.v, in.u)) >> (in.u & 31)) << ((in.u << (t0 & 31)) & 31));
        t4 = ((((i64)31 == t1) ? t1 : (i64)2147483647) + (i64)65535);
        t5 = (div_u32((div_u32((in.u | t0), t0)), ((u32)in.b)));
    }
    return (i64)t0 << 0 ^ (i64)t1 << 1 ^ (i64)t2 << 2 ^ (i64)t3 << 3 ^ (i64)t4 << 4 ^ (i64)t5 << 5;
}

FUNCTION(random_22) {
    f64 t0 = 0;
    u32 t1 = 0;
    u64 t2 = 0;
    t0 = (((in.d / in.e) + in.e) + __builtin_sqrt(__builtin_fabs(in.d)));
    t0 = (__builtin_sqrt(__builtin_fabs(t0)) * in.d);
    if (((((0.1 > in.d) ? (in.e / 1.0) : in.d) >= __builtin_fma((-1e-10 * in.e), 0.0, in.e)) && (((u64)2147483647 & in.r) > (rem_u64((u64)1, (u64)0))))) {
        for (u32 i1 = 0; i1 < ((rem_u32((u32)2147483647, in.u)) & 7); i1++) {
            t0 = (0.0 - in.e);
            t0 = ((in.v != (u32)255) ? in.e : t0);
            t1 = ((u32)((~in.s) & (u64)65535));
        }
    }
    t2 = ((u64)(in.u - (u32)7));
    return bits_f64(t0) << 0 ^ (i64)t1 << 1 ^ (i64)t2 << 2;
}

FUNCTION(random_23) {
    f64 t0 = 0;
    f32 t1 = 0;
    f64 t2 = 0;
    t0 = (in.d / -7.25);
    t0 = ((in.e + in.e) / 1.0);
    t1 = (((div_u64(in.r, (u64)3)) > ((in.s >= in.s) ? in.s : in.s)) ? ((-(in.x)) + 0.1f) : __builtin_fmaf(1.0f, 0.0f, 0.0f));
    t2 = __builtin_fma(in.d, in.d, t0);
    return bits_f64(t0) << 0 ^ bits_f32(t1) << 1 ^ bits_f64(t2) << 2;
}

FUNCTION(random_24) {
    i64 t0 = 0;
    u64 t1 = 0;
    f32 t2 = 0;
    f32 t3 = 0;
    i64 t4 = 0;
    f32 t5 = 0;
    u64 t6 = 0;
    i64 t7 = 0;
    if (!((div_u32(((in.y == in.x) ? in.v : in.u), in.v)) == ((in.u >> (in.u & 31)) >> (in.u & 31)))) {
        if ((((3.0f <= -0.5f) ? (~in.p) : in.p) <= ((-7.25f <= in.x) ? (in.p >> ((i64)255 & 63)) : in.q))) {
            t0 = (-(((in.a < (i32)255) ? ((in.e <= in.d) ? in.p : in.p) : (i64)1034667724)));
            t0 = ((div_i64(to_i64(in.d), t0)) | (-(t0)));
        } else {
            t1 = (rem_u64((rem_u64(((u64)t0), in.r)), (in.r >> (in.s & 63))));
            t2 = ((-(in.x)) * in.x);
        }
        for (u32 i1 = 0; i1 < ((rem_u32((u32)31, in.v)) & 7); i1++) {
            t3 = (-(in.y));
            t0 = (in.p | (i64)3);
            t4 = (-((rem_i64((!(t1 <= in.s) ? t0 : in.p), in.q))));
        }
        t5 = (1e10f + t3);
    }
    t6 = (rem_u64((div_u64(((u64)2147483647 ^ in.s), t1)), (~in.r)));
    t2 = (-(in.y));
    if (((div_i64((!(in.p < t4) ? (i64)65535 : in.q), in.q)) != ((t4 - t4) >> (t0 & 63)))) {
        for (u32 i1 = 0; i1 < ((in.v ^ in.u) & 7); i1++) {
            t6 = (in.s << (t1 & 63));
            if (!((in.q ^ in.p) == ((in.v <= in.v) ? t0 : in.p))) break;
        }
    } else {
        if ((((in.s - t1) + t6) <= ((u64)(div_i64(t0, t4))))) {
            t7 = (((-(t6)) == (t1 & (u64)1)) ? (rem_i64(to_i64(in.y), (i64)0)) : (t4 - t0));
            t6 = ((u64)((i64)(div_i32(in.b, (i32)2))));
        }
        t5 = __builtin_fmaf(__builtin_sqrtf(__builtin_fabsf(in.y)), t2, t5);
    }
    return (i64)t0 << 0 ^ (i64)t1 << 1 ^ bits_f32(t2) << 2 ^ bits_f32(t3) << 3 ^ (i64)t4 << 4 ^ bits_f32(t5) << 5 ^ (i64)t6 << 6 ^ (i64)t7 << 7;
}

FUNCTION(random_25) {
    f64 t0 = 0;
    i32 t1 = 0;
    i64 t2 = 0;
    f64 t3 = 0;
    i64 t4 = 0;
    u32 t5 = 0;
    t0 = ((f64)(in.q ^ in.p));
    for (u32 i2 = 0; i2 < ((in.v ^ in.u) & 7); i2++) {
        t1 = (-(to_i32(__builtin_sqrt(__builtin_fabs(in.d)))));
        for (u32 i1 = 0; i1 < ((in.u * in.v) & 7); i1++) {
            t1 = (((rem_i32(t1, (i32)65535)) & in.a) - to_i32(in.x));
            t1 = ((i32)in.v);
            if (((((u32)2147483647 < in.u) ? in.d : in.d) <= __builtin_fma(in.e, in.e, in.e))) break;
        }
        for (u32 i1 = 0; i1 < (((u32)65535 << (in.u & 31)) & 7); i1++) {
            t2 = ((i64)(i32)421241501);
            t0 = (in.d / t0);
            if (((in.a ^ in.b) < ((i32)in.p))) continue;
        }
    }
    t3 = ((((u32)in.r) <= ((u32)7 | in.u)) ? (-((t0 - in.d))) : (t0 - t0));
    for (u32 i2 = 0; i2 < ((~in.v) & 7); i2++) {
        if (!(((f32)(in.s << (in.r & 63))) < ((in.y >= in.y) ? ((t1 == in.b) ? in.x : in.y) : in.y))) {
            t0 = ((f64)(((i32)2 != in.a) ? in.p : in.p));
        } else {
            t4 = ((in.q + in.q) - (i64)0);
            t0 = __builtin_fma(((f64)in.s), in.d, in.e);
            t5 = (in.v << (in.u & 31));
        }
    }
    return bits_f64(t0) << 0 ^ (i64)t1 << 1 ^ (i64)t2 << 2 ^ bits_f64(t3) << 3 ^ (i64)t4 << 4 ^ (i64)t5 << 5;
}

FUNCTION(random_26) {
    i32 t0 = 0;
    i32 t1 = 0;
    i64 t2 = 0;
    t0 = ((i32)in.s);
    if (!((-((in.u & in.u))) >= (-(((u32)in.p))))) {
        for (u32 i1 = 0; i1 < ((in.v + in.u) & 7); i1++) {
            t1 = to_i32(__builtin_sqrt(__builtin_fabs((!(in.b != in.b) ? in.e : in.d))));
        }
        t2 = (((i64)in.s) | in.p);
    }
    t0 = ((rem_i32((-(t1)), (i32)1)) | ((i32)255 * t0));
    t1 = (rem_i32(((rem_i32(t0, (i32)255)) + in.b), (t1 + in.a)));
    return (i64)t0 << 0 ^ (i64)t1 << 1 ^ (i64)t2 << 2;
}

FUNCTION(random_27) {
    u32 t0 = 0;
    f64 t1 = 0;
    i64 t2 = 0;
    for (u32 i2 = 0; i2 < (((u32)1 >> (in.v & 31)) & 7); i2++) {
        t0 = (to_u32(((f64)in.u)) ^ (in.v >> (in.u & 31)));
        t0 = (t0 - (u32)0);
        t0 = (!(in.e == in.e) ? t0 : in.u);
    }
    if ((((rem_i64((~in.p), in.p)) != (((u32)685092419 <= in.u) ? to_i64(in.e) : in.q)) && ((rem_u32(in.v, (u32)990190308)) > (-(t0))))) {
        t0 = ((div_u32((!((i64)560751175 > in.p) ? in.u : in.u), in.v)) & (((u64)7 == (u64)3) ? t0 : in.v));
        if ((((-1e-10f - in.x) + in.y) > ((in.y - in.y) + in.y))) {
            t1 = ((-(in.e)) - in.e);
        }
        t1 = ((in.e / in.e) / in.d);
    } else {
        for (u32 i1 = 0; i1 < (((in.y <= in.y) ? (u32)3 : in.v) & 7); i1++) {
            t2 = (!(in.y >= 3.0f) ? in.p : in.p);
        }
    }
    t0 = ((((u32)2 | in.u) != ((u32)in.b)) ? ((~t0) << (in.v & 31)) : to_u32(in.x));
    t0 = to_u32(((in.a <= in.b) ? __builtin_fma(in.e, t1, t1) : in.d));
    return (i64)t0 << 0 ^ bits_f64(t1) << 1 ^ (i64)t2 << 2;
}

FUNCTION(random_28) {
    f32 t0 = 0;
    f64 t1 = 0;
    t0 = (((-(in.y)) - in.x) / ((f32)in.a));
    t0 = (-(((in.y * in.x) * 3.0f)));
    t1 = (((u64)65535 >= in.s) ? __builtin_fma(-0.5, in.d, in.e) : 0.1);
    t0 = (((i32)830957962 > in.a) ? (in.y / 0.0f) : in.x);
    return bits_f32(t0) << 0 ^ bits_f64(t1) << 1;
}

FUNCTION(random_29) {
    i64 t0 = 0;
    i32 t1 = 0;
    if (!((__builtin_sqrtf(__builtin_fabsf(in.y)) * 1.0f) == (-((in.x * -0.5f))))) {
        t0 = to_i64(__builtin_fma(-0.5, in.e, in.e));
        if (((rem_i64((in.q ^ t0), t0)) <= (((i64)in.a) & in.q))) {
            t0 = ((t0 << ((i64)399614076 & 63)) | t0);
        }
        t0 = (~(~(-(in.q))));
    }
    for (u32 i2 = 0; i2 < (((in.s == in.r) ? in.v : in.v) & 7); i2++) {
        t0 = ((i64)0 & in.p);
        if (((rem_i32(in.a, in.b)) > ((in.x != in.y) ? in.b : in.b))) break;
    }
    t0 = ((i64)(-((in.a >> (in.a & 31)))));
    t1 = (((i32)31 * in.b) | (i32)65535);
    return (i64)t0 << 0 ^ (i64)t1 << 1;
}

FUNCTION(random_30) {
    i32 t0 = 0;
    u32 t1 = 0;
    u32 t2 = 0;
    f32 t3 = 0;
    i32 t4 = 0;
    i32 t5 = 0;
    u64 t6 = 0;
    f32 t7 = 0;
    i32 t8 = 0;
    u32 t9 = 0;
    if ((((in.r != in.s) ? (1.0 - -0.5) : in.e) <= (((f64)in.v) - in.d))) {
        if ((((((i64)255 <= in.q) ? in.b : in.b) * (i32)255) > ((-(in.a)) << (in.b & 31)))) {
            t0 = ((in.b ^ in.a) * in.b);
            t0 = (div_i32((((in.q <= in.q) ? (i32)2147483647 : in.a) * t0), (t0 & in.a)));
        } else {
            t1 = (in.u - in.u);
            t2 = (!((-0.5f / in.x) > (in.y + in.x)) ? (~(t1 - in.u)) : (in.v * in.u));
            t1 = (in.v | t1);
        }
        t2 = (to_u32(in.y) >> (t1 & 31));
        t3 = __builtin_sqrtf(__builtin_fabsf(((in.x + in.y) + in.x)));
    } else {
        t1 = (div_u32((in.v * in.v), in.v));
        t2 = to_u32(in.d);
        if (((to_u64(in.x) >> (in.s & 63)) > ((u64)((i64)(i32)0)))) {
            t4 = to_i32(((f64)(t3 / 1.0f)));
        } else {
            t0 = (((i32)(~(u32)31)) & (~(i32)3));
            t5 = (in.a << (t0 & 31));
        }
    }
    for (u32 i2 = 0; i2 < ((t2 | (u32)2) & 7); i2++) {
        t6 = ((rem_u64(in.s, in.r)) & in.r);
    }
    t7 = ((f32)(~to_u64(in.x)));
    if (((-((t3 + t7))) > __builtin_sqrtf(__builtin_fabsf((t7 * in.y))))) {
        if (((((div_u64((u64)2, t6)) >> (in.s & 63)) >= (div_u64((in.s - t6), (u64)0))) && !(((i32)(u64)3) <= (rem_i32(t5, in.a))))) {
            t4 = ((i32)(((i64)1044172163 == in.p) ? t2 : t2));
            t8 = ((i32)in.q);
            t4 = ((i32)(((u32)in.p) << (t1 & 31)));
        } else {
            t2 = (rem_u32(to_u32(t3), in.v));
            t2 = ((t2 - (u32)3) ^ (u32)877164759);
        }
        t7 = __builtin_fmaf(__builtin_sqrtf(__builtin_fabsf(t3)), in.x, 3.0f);
    } else {
        t9 = (((u32)(i32)1) + (u32)2147483647);
        for (u32 i1 = 0; i1 < ((t1 * t2) & 7); i1++) {
            t9 = to_u32(in.d);
            t5 = ((i32)332392861 | in.a);
            if (((-((u64)7)) <= ((in.r != in.s) ? t6 : in.s))) break;
        }
    }
    return (i64)t0 << 0 ^ (i64)t1 << 1 ^ (i64)t2 << 2 ^ bits_f32(t3) << 3 ^ (i64)t4 << 4 ^ (i64)t5 << 5 ^ (i64)t6 << 6 ^ bits_f32(t7) << 7 ^ (i64)t8 << 8 ^ (i64)t9 << 9;
}

FUNCTION(random_31) {
    f32 t0 = 0;
    u64 t1 = 0;
    f64 t2 = 0;
    u64 t3 = 0;
    i64 t4 = 0;
    i64 t5 = 0;
    f64 t6 = 0;
    i32 t7 = 0;
    for (u32 i2 = 0; i2 < ((~in.u) & 7); i2++) {
        if (((-((in.x / 3.0f))) <= ((f32)((u64)in.b)))) {
            t0 = (((3.0 <= in.e) ? in.x : in.x) + in.y);
            t0 = ((f32)((in.q | in.q) * in.p));
        } else {
            t0 = ((f32)(in.r >> (in.s & 63)));
            t1 = (((u64)(in.a ^ in.b)) + ((u64)in.q));
            t1 = ((u64)((u32)t1));
        }
        t2 = (!(in.e <= in.d) ? ((f64)t1) : in.d);
        t3 = (((in.r << (in.s & 63)) >> (in.r & 63)) | (-(in.r)));
    }
    for (u32 i2 = 0; i2 < ((-(in.u)) & 7); i2++) {
        for (u32 i1 = 0; i1 < (((u32)t3) & 7); i1++) {
            t3 = ((u64)(in.p << (in.q & 63)));
            t3 = ((u64)(((u32)in.a) | in.u));
            t4 = ((in.q - in.q) << (in.q & 63));
        }
        t5 = (in.p >> (t4 & 63));
        t6 = ((f64)((in.b > in.b) ? (rem_i64(t4, t4)) : t4));
        if ((((t6 != t6) ? t4 : in.p) < ((i64)2 << (t5 & 63)))) break;
    }
    if ((((f64)(div_i64(t4, t5))) >= ((f64)__builtin_fmaf(0.0f, t0, t0)))) {
        if ((to_u32((-(t2))) < (-((in.u >> (in.v & 31)))))) {
            t5 = (t5 - in.q);
            t4 = (((i64)t3) << ((i64)65535 & 63));
            t7 = ((i32)(div_i64(in.p, t4)));
        }
        t1 = (((in.s * t1) >> (in.s & 63)) + to_u64(1.0f));
    }
    t5 = (((in.r * in.r) <= (div_u64(in.s, (u64)960709929))) ? ((in.q & t5) & in.q) : to_i64(in.x));
    return bits_f32(t0) << 0 ^ (i64)t1 << 1 ^ bits_f64(t2) << 2 ^ (i64)t3 << 3 ^ (i64)t4 << 4 ^ (i64)t5 << 5 ^ bits_f64(t6) << 6 ^ (i64)t7 << 7;
}

FUNCTION(random_32) {
    f64 t0 = 0;
    i64 t1 = 0;
    i64 t2 = 0;
    t0 = ((f64)((in.d <= in.d) ? -1e-10f : in.x));
    t1 = (((t0 >= t0) ? (in.q >> (in.p & 63)) : in.q) >> ((((i64)2147483647 <= in.p) ? (i64)2 : in.q) & 63));
    for (u32 i2 = 0; i2 < (((u32)(u64)65535) & 7); i2++) {
        t0 = ((f64)(in.x * in.x));
        if (((__builtin_sqrtf(__builtin_fabsf(in.y)) > ((in.b != in.b) ? in.y : in.y)) || (in.b > (i32)7))) break;
    }
    t2 = ((t1 * (i64)65535) | (i64)57782441);
    return bits_f64(t0) << 0 ^ (i64)t1 << 1 ^ (i64)t2 << 2;
}

FUNCTION(random_33) {
    f32 t0 = 0;
    u64 t1 = 0;
    for (u32 i2 = 0; i2 < (to_u32(0.1) & 7); i2++) {
        t0 = ((f32)in.e);
        if (((in.p ^ in.p) == (in.q & in.q))) break;
    }
    t0 = (__builtin_fmaf(in.y, t0, in.x) - in.y);
    t1 = (-(((u64)(in.v >> ((u32)0 & 31)))));
    t0 = (0.1f / -0.5f);
    return bits_f32(t0) << 0 ^ (i64)t1 << 1;
}

FUNCTION(random_34) {
    i64 t0 = 0;
    f32 t1 = 0;
    f32 t2 = 0;
    t0 = (-((!(in.p == in.p) ? ((i64)31 << (in.p & 63)) : (i64)292822563)));
    t0 = (!(in.p > t0) ? (i64)65535 : in.p);
    if ((((t0 - in.p) + in.p) == to_i64((-(in.d))))) {
        t1 = ((((in.p << (in.p & 63)) == ((i64)in.s)) || (in.d > in.d)) ? ((in.q <= in.p) ? (in.y + in.y) : in.x) : (!(in.u >= in.v) ? 3.0f : in.y));
        t1 = ((f32)(!(in.r > in.s) ? (in.e + in.d) : in.e));
        t1 = (-(((f32)(~in.a))));
    }
    t2 = (in.x + 0.1f);
    return (i64)t0 << 0 ^ bits_f32(t1) << 1 ^ bits_f32(t2) << 2;
}

FUNCTION(random_35) {
    f64 t0 = 0;
    i32 t1 = 0;
    i64 t2 = 0;
    f32 t3 = 0;
    i64 t4 = 0;
    u64 t5 = 0;
    u64 t6 = 0;
    f64 t7 = 0;
    t0 = (((-(in.s)) <= ((in.d <= in.e) ? (u64)3 : in.r)) ? __builtin_sqrt(__builtin_fabs((in.e + in.d))) : (in.e * 0.1));
    for (u32 i2 = 0; i2 < (((in.q <= (i64)2147483647) ? in.u : in.u) & 7); i2++) {
        for (u32 i1 = 0; i1 < (((u32)(u64)31) & 7); i1++) {
            t1 = (~((i32)1 & in.b));
            t2 = (((in.q - (i64)7) * in.q) - (in.p * (i64)2147483647));
        }
        for (u32 i1 = 0; i1 < ((-(in.u)) & 7); i1++) {
            t0 = (3.0 * t0);
            t0 = (-((in.d + t0)));
            t0 = __builtin_sqrt(__builtin_fabs((-((-(in.d))))));
            if (((~t2) == (t2 >> (in.p & 63)))) continue;
        }
        if ((((-((i32)0)) >> (t1 & 31)) >= (((0.1f < in.x) ? in.b : in.b) - in.b))) {
            t3 = (!(in.d != in.d) ? in.y : 0.0f);
            t3 = __builtin_fmaf(in.x, in.y, in.y);
            t1 = to_i32(((t0 <= 0.0) ? (-(t3)) : in.x));
        } else {
            t1 = (-(to_i32(in.y)));
        }
        if ((((in.d >= in.d) ? (u32)3 : in.u) <= ((in.q > (i64)323097376) ? in.u : in.v))) break;
    }
    t4 = (!((in.b >> (in.b & 31)) != (div_i32(in.b, in.a))) ? ((in.d > in.e) ? (~in.q) : in.q) : (-(in.p)));
    for (u32 i2 = 0; i2 < ((rem_u32(in.v, in.v)) & 7); i2++) {
        for (u32 i1 = 0; i1 < (((t4 != t4) ? in.v : in.u) & 7); i1++) {
            t5 = (to_u64((t3 * 0.0f)) & (in.r ^ (u64)3));
            if ((((div_u32(in.v, in.v)) >= (in.v << (in.u & 31))) || !((u64)31 >= (u64)7))) continue;
        }
        for (u32 i1 = 0; i1 < (((u32)t5) & 7); i1++) {
            t6 = to_u64(__builtin_fmaf(in.x, t3, in.x));
            t5 = (((u64)65535 > in.s) ? t5 : (u64)7);
            t7 = ((((f64)t1) * in.d) - __builtin_sqrt(__builtin_fabs(-1e-10)));
        }
        t5 = (div_u64(t6, in.s));
        if (((((i64)2147483647 >= in.q) ? (u64)1 : in.r) <= (in.r - t6))) continue;
    }
    return bits_f64(t0) << 0 ^ (i64)t1 << 1 ^ (i64)t2 << 2 ^ bits_f32(t3) << 3 ^ (i64)t4 << 4 ^ (i64)t5 << 5 ^ (i64)t6 << 6 ^ bits_f64(t7) << 7;
}

FUNCTION(random_36) {
    i32 t0 = 0;
    i64 t1 = 0;
    f64 t2 = 0;
    f32 t3 = 0;
    t0 = (div_i32((in.a + in.b), in.a));
    t1 = (~(rem_i64((i64)2147483647, in.p)));
    t2 = (__builtin_sqrt(__builtin_fabs(in.d)) / -7.25);
    t3 = (1e10f + in.x);
    return (i64)t0 << 0 ^ (i64)t1 << 1 ^ bits_f64(t2) << 2 ^ bits_f32(t3) << 3;
}

FUNCTION(random_37) {
    u32 t0 = 0;
    f64 t1 = 0;
    i32 t2 = 0;
    for (u32 i2 = 0; i2 < (((u32)255 ^ in.v) & 7); i2++) {
        if (!((rem_i64(((in.r < in.s) ? (i64)0 : in.q), in.q)) <= ((div_i64((i64)31, in.q)) * in.q))) {
            t0 = (in.v + in.u);
        }
        if ((__builtin_fma(__builtin_fma(in.e, in.d, in.d), in.d, -7.25) != (((f64)in.a) + in.d))) {
            t0 = ((u32)(in.s ^ in.s));
            t0 = (~in.u);
            t0 = (rem_u32(((u32)(in.p << (in.p & 63))), ((in.b > in.b) ? in.v : in.v)));
        } else {
            t0 = (-(in.v));
            t1 = __builtin_sqrt(__builtin_fabs((in.d + in.d)));
            t0 = ((u32)(u64)58253362);
        }
        if ((to_u32(in.d) == (~t0))) break;
    }
    if (((((f32)__builtin_fma(-7.25, -0.5, t1)) == ((in.p != in.p) ? __builtin_sqrtf(__builtin_fabsf(0.1f)) : in.x)) || (to_i32(in.d) == (-(in.b))))) {
        t0 = (div_u32(in.v, in.u));
    }
    t1 = (((in.y == in.x) ? in.e : t1) - t1);
    if (((((in.v >> (in.v & 31)) * in.v) > to_u32(__builtin_sqrtf(__builtin_fabsf(in.y)))) || (__builtin_sqrt(__builtin_fabs(t1)) <= (t1 + in.d)))) {
        t1 = (t1 / t1);
        t1 = ((t0 >= in.u) ? t1 : 1e10);
        t2 = ((((in.q == in.p) ? (u32)3 : t0) == ((in.u <= in.v) ? in.v : t0)) ? ((in.b << (in.a & 31)) ^ in.a) : ((i32)t0));
    } else {
        if (!(((-1e-10 == in.e) ? (-(t2)) : in.b) > (div_i32((~t2), t2)))) {
            t2 = (~(i32)2147483647);
        } else {
            t0 = ((u32)((in.s != in.r) ? (in.s & in.r) : in.s));
            t2 = to_i32(((in.x + in.y) - in.x));
        }
        t0 = to_u32(((1e10 != in.d) ? t1 : in.e));
    }
    return (i64)t0 << 0 ^ bits_f64(t1) << 1 ^ (i64)t2 << 2;
}

FUNCTION(random_38) {
    u32 t0 = 0;
    f64 t1 = 0;
    u64 t2 = 0;
    u64 t3 = 0;
    u32 t4 = 0;
    t0 = (rem_u32(in.u, in.u));
    for (u32 i2 = 0; i2 < (to_u32(in.x) & 7); i2++) {
        if ((((f64)((u32)3 & in.u)) > __builtin_fma((-(in.e)), in.e, in.d))) {
            t0 = ((u32)(in.b >> ((i32)622473279 & 31)));
            t1 = (-(in.d));
        }
        t2 = ((u64)in.u);
        t2 = ((-(((in.a >= in.b) ? in.r : in.s))) | (t2 ^ t2));
        if (!(((f64)in.y) >= ((in.x != 3.0f) ? t1 : in.d))) continue;
    }
    t2 = ((u64)((in.d < t1) ? in.q : in.p));
    if (((((t2 ^ in.s) | in.s) != (((u64)in.v) * in.r)) || ((in.p - (i64)2) >= ((i64)1 & in.p)))) {
        t0 = to_u32(t1);
    } else {
        if (((~((u32)in.b)) <= ((u32)(div_i64(in.p, in.q))))) {
            t2 = ((3.0f < in.y) ? (u64)256394792 : in.s);
            t2 = (rem_u64(((in.v < (u32)2) ? ((u64)7 ^ (u64)31) : t2), (in.s & t2)));
            t3 = (((div_u64(in.s, t2)) & in.s) | (t2 | in.r));
        } else {
            t0 = ((in.x > -7.25f) ? (in.u * in.u) : in.v);
            t1 = (0.1 - in.d);
        }
        t4 = ((u32)(t2 - t3));
        for (u32 i1 = 0; i1 < ((rem_u32(t4, t0)) & 7); i1++) {
            t0 = ((u32)31 + t4);
            t4 = (rem_u32((u32)145788860, (u32)1));
            t1 = ((in.d * in.e) + t1);
        }
    }
    return (i64)t0 << 0 ^ bits_f64(t1) << 1 ^ (i64)t2 << 2 ^ (i64)t3 << 3 ^ (i64)t4 << 4;
}

FUNCTION(random_39) {
    f32 t0 = 0;
    f64 t1 = 0;
    u32 t2 = 0;
    t0 = ((in.u >= in.u) ? ((f32)in.d) : in.y);
    t1 = (((in.d != in.d) ? ((in.v != in.v) ? in.e : in.d) : in.d) * (in.e * in.e));
    t2 = (in.u & in.u);
    for (u32 i2 = 0; i2 < ((in.u << (in.u & 31)) & 7); i2++) {
        t2 = (div_u32(((~t2) ^ t2), to_u32(in.e)));
    }
    return bits_f32(t0) << 0 ^ bits_f64(t1) << 1 ^ (i64)t2 << 2;
}
