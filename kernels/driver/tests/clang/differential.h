// Functions that are compiled twice: by clang to PTX, run by the driver, and by the C compiler for this machine.
// Each takes one record and returns 64 bits. Both compilers get -fwrapv -ffp-contract=off, and the functions keep away
// from what C leaves undefined (shift amounts, division by zero, conversions out of range), so the bits must agree.

typedef int i32;
typedef unsigned u32;
typedef long long i64;
typedef unsigned long long u64;
typedef float f32;
typedef double f64;

struct input {
    i32 a, b;
    u32 u, v;
    i64 p, q;
    u64 r, s;
    f32 x, y;
    f64 d, e;
};

#ifdef __NVPTX__
#define FUNCTION(name)                                                                                                 \
    static i64 body_##name(struct input in);                                                                           \
    __attribute__((nvptx_kernel)) void name(const __attribute__((address_space(1))) struct input *in,                  \
                                            __attribute__((address_space(1))) i64 *out, u32 n) {                       \
        u32 i = __nvvm_read_ptx_sreg_ctaid_x() * __nvvm_read_ptx_sreg_ntid_x() + __nvvm_read_ptx_sreg_tid_x();         \
        if (i < n) out[i] = body_##name(in[i]);                                                                        \
    }                                                                                                                  \
    static i64 body_##name(struct input in)
#else
#define FUNCTION(name)                                                                                                 \
    static i64 body_##name(struct input in);                                                                           \
    void name(const struct input *in, i64 *out, u32 n) {                                                               \
        for (u32 i = 0; i < n; i++) out[i] = body_##name(in[i]);                                                       \
    }                                                                                                                  \
    static i64 body_##name(struct input in)
#endif

// NaNs differ in sign and payload between machines; all become one.
static inline i64 bits_f32(f32 x) {
    if (x != x) return 0x7fffffff;
    union { f32 f; u32 u; } bits = {x};
    return bits.u;
}
static inline i64 bits_f64(f64 x) {
    if (x != x) return 0x7fffffffffffffff;
    union { f64 f; i64 i; } bits = {x};
    return bits.i;
}

static inline i32 div_i32(i32 a, i32 b) { return b == 0 || b == -1 ? a : a / b; }
static inline i32 rem_i32(i32 a, i32 b) { return b == 0 || b == -1 ? a : a % b; }
static inline u32 div_u32(u32 a, u32 b) { return b == 0 ? a : a / b; }
static inline u32 rem_u32(u32 a, u32 b) { return b == 0 ? a : a % b; }
static inline i64 div_i64(i64 a, i64 b) { return b == 0 || b == -1 ? a : a / b; }
static inline i64 rem_i64(i64 a, i64 b) { return b == 0 || b == -1 ? a : a % b; }
static inline u64 div_u64(u64 a, u64 b) { return b == 0 ? a : a / b; }
static inline u64 rem_u64(u64 a, u64 b) { return b == 0 ? a : a % b; }
static inline i32 to_i32(f64 x) { return x > -2147483649.0 && x < 2147483648.0 ? (i32)x : 0; }
static inline u32 to_u32(f64 x) { return x > -1.0 && x < 4294967296.0 ? (u32)x : 1; }
static inline i64 to_i64(f64 x) { return x >= -0x1p63 && x < 0x1p63 ? (i64)x : 2; }
static inline u64 to_u64(f64 x) { return x > -1.0 && x < 0x1p64 ? (u64)x : 3; }
