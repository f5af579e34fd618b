/* Models as exporters write them quantized: each form must reach integers, or keep its weights as codes, and compute what it says.
 *
 * Inputs named x are inputs; all others become constants (graph_with_constants). The graph is interpreted as it is written and after all passes. */
#include "frontend/interpret.h"
#include "passes/integer.h"
#include "passes/passes.h"
#include "tests/unit/worlds.h"

typedef struct Form {
    const char *name;
    uint32_t integer, weights, floats; /* contractions in each state */
    double room;                       /* part of the largest value that results may differ by */
    const char *text;
} Form;

/* clang-format off */
static const Form forms[] = {
    {"pytorch: linear, scales of axis 0 and a transpose", 1, 0, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[2,5,64], %2 \"s\": f32[], %3 \"z\": u8[], %4 \"w\": i8[48,64], %5 \"s2\": f32[48]) -> (%11 \"y\") {\n"
     "  %6 = QuantizeLinear(%1, %2, %3)\n  %7 = DequantizeLinear(%6, %2, %3)\n  %8 = DequantizeLinear(%4, %5) {axis=0}\n"
     "  %10 = Transpose(%8) {perm=[1,0]}\n  %11 = MatMul(%7, %10)\n}\n"},
    {"pytorch: Gemm with transB and an int32 bias", 1, 0, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[5,64], %2 \"s\": f32[], %3 \"z\": u8[], %4 \"w\": i8[48,64], %5 \"s2\": f32[48], %6 \"b\": i32[48], %7 \"s3\": f32[48]) -> (%12 \"y\") {\n"
     "  %8 = QuantizeLinear(%1, %2, %3)\n  %9 = DequantizeLinear(%8, %2, %3)\n  %10 = DequantizeLinear(%4, %5) {axis=0}\n"
     "  %11 = DequantizeLinear(%6, %7) {axis=0}\n  %12 = Gemm(%9, %10, %11) {transB=1}\n}\n"},
    {"pytorch: convolution, Relu, the next quantizer", 1, 0, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[1,8,6,6], %2 \"s\": f32[], %3 \"z\": u8[], %4 \"w\": i8[8,8,3,3], %5 \"s2\": f32[8], %6 \"b\": i32[8], %7 \"s3\": f32[8]) -> (%15 \"y\") {\n"
     "  %8 = QuantizeLinear(%1, %2, %3)\n  %9 = DequantizeLinear(%8, %2, %3)\n  %10 = DequantizeLinear(%4, %5) {axis=0}\n"
     "  %11 = DequantizeLinear(%6, %7) {axis=0}\n  %12 = Conv(%9, %10, %11) {pads=[1,1,1,1]}\n  %13 = Relu(%12)\n"
     "  %14 = QuantizeLinear(%13, %2, %3)\n  %15 = DequantizeLinear(%14, %2, %3)\n}\n"},
    {"tensorflow: weights whose Q was folded, channels last around the convolution", 1, 0, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[1,6,6,8], %2 \"s\": f32[], %3 \"z\": i8[], %4 \"w\": i8[3,3,8,16], %5 \"s2\": f32[16]) -> (%13 \"y\") {\n"
     "  %6 = QuantizeLinear(%1, %2, %3)\n  %7 = DequantizeLinear(%6, %2, %3)\n  %8 = Transpose(%7) {perm=[0,3,1,2]}\n"
     "  %9 = DequantizeLinear(%4, %5) {axis=3}\n  %10 = Transpose(%9) {perm=[3,2,0,1]}\n  %11 = Conv(%8, %10)\n  %13 = Transpose(%11) {perm=[0,2,3,1]}\n}\n"},
    {"tensorflow: weights whose rounding was folded into floats", 1, 0, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[5,16], %2 \"s\": f32[], %3 \"z\": u8[]) -> (%13 \"y\") {\n"
     "  %4 = const f32[16,8] {-0.9921875, 0.390625, 0.05078125, -0.7265625, -1, 0.84375, 0.0546875, -0.0390625, 0.265625, 1.984375, -0.4296875, 0.2265625, -3.84375, 0.828125, 0.171875, -0.046875, -0.46875, 0.234375, -0.49609375, -0.6015625, 1.78125, -0.046875, 0.0234375, 0.6875, 0.109375, -0.078125, -0.09765625, 0.9921875, 2.9375, -0.6875, -0.130859375, 0.28125, -0.6875, 1.5, 0.43359375, 0.0546875, -3.96875, 0.4921875, -0.240234375, 0.3515625, 0.5625, -1.71875, -0.3359375, 0.53125, 3.71875, 0.9921875, -0.2265625, -0.3828125, 0.5703125, -1.859375, 0.328125, 0.7421875, -1.8125, -0.0390625, -0.248046875, 0.453125, 0.8515625, 1.53125, -0.10546875, 0.4375, 2.34375, 0.8515625, -0.033203125, 0.9921875, 0.46875, 1.234375, 0.08203125, -0.1015625, 3.75, 0.8828125, -0.1796875, 0.765625, -0.2578125, -1.59375, -0.45703125, -0.71875, 0, -0.5546875, -0.1171875, 0.9453125, 0.359375, -0.234375, 0.28515625, 0.265625, 2.875, -0.3828125, -0.037109375, 0.0234375, 0.6796875, -0.4375, 0.078125, -0.2890625, 0.3125, 0.1796875, -0.04296875, 0.1796875, -0.5234375, 1.640625, -0.15625, 0.375, 3.375, 0.8671875, -0.232421875, 0.7265625, -0.4296875, 0.453125, 0.17578125, 0.40625, -2.65625, 0.40625, 0.18359375, -0.3359375, 0.9375, 0.1875, 0.41015625, 0.15625, 0.59375, -0.78125, 0.109375, 0.3203125, -0.5625, 0.5625, 0.3359375, 0.984375, 0.625, -0.453125, -0.10546875, -0.7421875}\n"
     "  %6 = QuantizeLinear(%1, %2, %3)\n  %7 = DequantizeLinear(%6, %2, %3)\n  %13 = MatMul(%7, %4)\n}\n"},
    {"tensorflow: depthwise weights reshaped", 1, 0, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[1,8,6,6], %2 \"s\": f32[], %3 \"z\": i8[], %4 \"w\": i8[3,3,8,1], %5 \"s2\": f32[8]) -> (%13 \"y\") {\n"
     "  %6 = QuantizeLinear(%1, %2, %3)\n  %7 = DequantizeLinear(%6, %2, %3)\n  %9 = DequantizeLinear(%4, %5) {axis=2}\n"
     "  %10 = Transpose(%9) {perm=[2,3,0,1]}\n  %13 = Conv(%7, %10) {group=8}\n}\n"},
    {"modelopt: no zero points, signed by output_dtype", 1, 0, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[5,64], %2 \"s\": f32[], %4 \"w\": i8[64,48], %5 \"s2\": f32[48]) -> (%11 \"y\") {\n"
     "  %6 = QuantizeLinear(%1, %2) {output_dtype=3}\n  %7 = DequantizeLinear(%6, %2)\n  %8 = DequantizeLinear(%4, %5) {axis=1}\n"
     "  %11 = MatMul(%7, %8)\n}\n"},
    {"modelopt: all in float16", 1, 0, 0, 2e-3,
     "graph \"g\" (%1 \"x\": f16[5,64], %2 \"s\": f16[], %3 \"z\": i8[], %4 \"w\": i8[64,48], %5 \"s2\": f16[48]) -> (%11 \"y\") {\n"
     "  %6 = QuantizeLinear(%1, %2, %3)\n  %7 = DequantizeLinear(%6, %2, %3)\n  %8 = DequantizeLinear(%4, %5) {axis=1}\n"
     "  %11 = MatMul(%7, %8)\n}\n"},
    {"modelopt: activations of 16 bits", 1, 0, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[5,64], %2 \"s\": f32[], %3 \"z\": i16[], %4 \"w\": i8[64,48], %5 \"s2\": f32[48]) -> (%11 \"y\") {\n"
     "  %6 = QuantizeLinear(%1, %2, %3)\n  %7 = DequantizeLinear(%6, %2, %3)\n  %8 = DequantizeLinear(%4, %5) {axis=1}\n"
     "  %11 = MatMul(%7, %8)\n}\n"},
    {"modelopt: 4-bit weights in blocks", 0, 1, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[5,128], %4 \"w\": i4[128,96], %5 \"s2\": f32[4,96]) -> (%11 \"y\") {\n"
     "  %8 = DequantizeLinear(%4, %5) {axis=0, block_size=32}\n  %11 = MatMul(%1, %8)\n}\n"},
    {"modelopt: NVFP4 weights, scales in E4M3 with one for all of them, a transpose", 0, 1, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[5,128], %4 \"w\": f4e2m1[96,128], %5 \"s1\": f8e4m3fn[96,8], %6 \"s2\": f32[]) -> (%11 \"y\") {\n"
     "  %7 = DequantizeLinear(%5, %6)\n  %8 = DequantizeLinear(%4, %7) {axis=1, block_size=16}\n  %9 = Transpose(%8) {perm=[1,0]}\n  %11 = MatMul(%1, %9)\n}\n"},
    {"modelopt: MXFP4 weights, scales in E8M0", 0, 1, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[5,128], %4 \"w\": f4e2m1[128,96], %5 \"s\": f8e8m0[4,96]) -> (%11 \"y\") {\n"
     "  %8 = DequantizeLinear(%4, %5) {axis=0, block_size=32, output_dtype=1}\n  %11 = MatMul(%1, %8)\n}\n"},
    {"float8 weights of each channel", 0, 1, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[5,128], %4 \"w\": f8e4m3fn[128,96], %5 \"s\": f32[96]) -> (%11 \"y\") {\n"
     "  %8 = DequantizeLinear(%4, %5) {axis=1}\n  %11 = MatMul(%1, %8)\n}\n"},
    {"brevitas: scales and zero points with one element, narrow ranges by Clip", 1, 0, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[5,64], %2 \"s\": f32[1], %3 \"z\": i8[1], %4 \"w\": i8[64,48], %5 \"s2\": f32[1], %12 \"z2\": i8[1]) -> (%11 \"y\") {\n"
     "  %20 = const i8[] {-127}\n  %21 = const i8[] {127}\n"
     "  %6 = QuantizeLinear(%1, %2, %3)\n  %22 = Clip(%6, %20, %21)\n  %7 = DequantizeLinear(%22, %2, %3)\n"
     "  %23 = Clip(%4, %20, %21)\n  %8 = DequantizeLinear(%23, %5, %12)\n  %11 = MatMul(%7, %8)\n}\n"},
    {"brevitas: an int32 bias with a zero point, 8 bits a channel", 1, 0, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[5,64], %2 \"s\": f32[], %3 \"z\": u8[], %4 \"w\": i8[64,48], %5 \"s2\": f32[48], %6 \"b\": i32[48], %12 \"s3\": f32[]) -> (%15 \"y\") {\n"
     "  %16 = const i32[] {0}\n  %7 = QuantizeLinear(%1, %2, %3)\n  %8 = DequantizeLinear(%7, %2, %3)\n  %9 = DequantizeLinear(%4, %5) {axis=1}\n"
     "  %10 = MatMul(%8, %9)\n  %11 = DequantizeLinear(%6, %12, %16)\n  %15 = Add(%10, %11)\n}\n"},
    {"brevitas: a transposed convolution whose windows do not meet, scales of each output channel", 1, 0, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[1,16,6,6], %2 \"s\": f32[], %3 \"z\": u8[], %4 \"w\": i8[16,16,2,2], %5 \"s2\": f32[16]) -> (%13 \"y\") {\n"
     "  %6 = QuantizeLinear(%1, %2, %3)\n  %7 = DequantizeLinear(%6, %2, %3)\n  %9 = DequantizeLinear(%4, %5) {axis=1}\n"
     "  %13 = ConvTranspose(%7, %9) {strides=[2,2]}\n}\n"},
    {"queries, keys and values put together, each with its scales", 1, 0, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[5,64], %2 \"s\": f32[], %3 \"z\": u8[], %4 \"w\": i8[64,48], %5 \"s2\": f32[48], %6 \"w2\": i8[64,16], %7 \"s3\": f32[16]) -> (%13 \"y\") {\n"
     "  %8 = QuantizeLinear(%1, %2, %3)\n  %9 = DequantizeLinear(%8, %2, %3)\n  %10 = DequantizeLinear(%4, %5) {axis=1}\n"
     "  %11 = DequantizeLinear(%6, %7) {axis=1}\n  %12 = Concat(%10, %11) {axis=1}\n  %13 = MatMul(%9, %12)\n}\n"},
    {"nncf: a branch takes part of dequantized channels", 2, 0, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[1,32,6,6], %2 \"s\": f32[], %3 \"z\": u8[], %4 \"w\": i8[16,16,3,3], %5 \"s2\": f32[16]) -> (%13 \"y\") {\n"
     "  %6 = QuantizeLinear(%1, %2, %3)\n  %7 = DequantizeLinear(%6, %2, %3)\n  %9 = DequantizeLinear(%4, %5) {axis=0}\n"
     "  %10, %11 = Split(%7) {axis=1, num_outputs=2}\n  %12 = Conv(%10, %9)\n  %14 = Conv(%11, %9)\n  %13 = Add(%12, %14)\n}\n"},
    {"activations bounded behind their codes", 1, 0, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[1,16,6,6], %2 \"s\": f32[], %3 \"z\": u8[], %4 \"w\": i8[16,16,3,3], %5 \"s2\": f32[16]) -> (%13 \"y\") {\n"
     "  %6 = QuantizeLinear(%1, %2, %3)\n  %7 = DequantizeLinear(%6, %2, %3)\n  %9 = DequantizeLinear(%4, %5) {axis=0}\n"
     "  %10 = Relu(%7)\n  %13 = Conv(%10, %9)\n}\n"},
    {"activations padded behind their codes", 1, 0, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[1,16,6,6], %2 \"s\": f32[], %3 \"z\": u8[], %4 \"w\": i8[16,16,3,3], %5 \"s2\": f32[16]) -> (%13 \"y\") {\n"
     "  %6 = QuantizeLinear(%1, %2, %3)\n  %7 = DequantizeLinear(%6, %2, %3)\n  %9 = DequantizeLinear(%4, %5) {axis=0}\n"
     "  %14 = const i64[8] {0, 0, 1, 1, 0, 0, 1, 1}\n  %10 = Pad(%7, %14)\n  %13 = Conv(%10, %9)\n}\n"},
    {"activations enlarged behind their codes", 1, 0, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[1,16,6,6], %2 \"s\": f32[], %3 \"z\": u8[], %4 \"w\": i8[16,16,3,3], %5 \"s2\": f32[16]) -> (%13 \"y\") {\n"
     "  %6 = QuantizeLinear(%1, %2, %3)\n  %7 = DequantizeLinear(%6, %2, %3)\n  %9 = DequantizeLinear(%4, %5) {axis=0}\n"
     "  %14 = const f32[4] {1, 1, 2, 2}\n  %10 = Resize(%7, _, %14) {coordinate_transformation_mode=\"asymmetric\", nearest_mode=\"floor\"}\n  %13 = Conv(%10, %9)\n}\n"},
    {"weights put together, one scale each", 1, 0, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[5,64], %2 \"s\": f32[], %3 \"z\": u8[], %4 \"w\": i8[64,48], %5 \"s2\": f32[], %6 \"w2\": i8[64,16], %7 \"s3\": f32[]) -> (%13 \"y\") {\n"
     "  %8 = QuantizeLinear(%1, %2, %3)\n  %9 = DequantizeLinear(%8, %2, %3)\n  %10 = DequantizeLinear(%4, %5)\n"
     "  %11 = DequantizeLinear(%6, %7)\n  %12 = Concat(%10, %11) {axis=1}\n  %13 = MatMul(%9, %12)\n}\n"},
    {"modelopt: a product of two in float16 between codes", 0, 0, 0, 2e-2,
     "graph \"g\" (%1 \"x\": f16[5,64], %2 \"s\": f16[], %3 \"z\": u8[], %4 \"s2\": f16[]) -> (%13 \"y\") {\n"
     "  %8 = QuantizeLinear(%1, %2, %3)\n  %9 = DequantizeLinear(%8, %2, %3)\n  %10 = Mul(%9, %9)\n"
     "  %12 = QuantizeLinear(%10, %4, %3)\n  %13 = DequantizeLinear(%12, %4, %3)\n}\n"},
    {"nncf: a depthwise convolution whose channels have scales of their own", 1, 0, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[1,16,6,6], %2 \"s\": f32[16], %4 \"w\": i8[16,1,3,3], %5 \"s2\": f32[16]) -> (%13 \"y\") {\n"
     "  %3 = const u8[] {128}\n  %8 = const i64[1] {16}\n  %11 = Expand(%3, %8)\n  %6 = QuantizeLinear(%1, %2, %11) {axis=1}\n"
     "  %7 = DequantizeLinear(%6, %2, %11) {axis=1}\n  %9 = DequantizeLinear(%4, %5) {axis=0}\n  %13 = Conv(%7, %9) {group=16}\n}\n"},
    {"onnxruntime: QLinearConv", 1, 0, 0, 0,
     "graph \"g\" (%1 \"x\": u8[1,8,6,6], %2 \"s\": f32[], %3 \"z\": u8[], %4 \"w\": i8[16,8,3,3], %5 \"s2\": f32[16], %6 \"z2\": i8[16]) -> (%11 \"y\") {\n"
     "  %7 = const i8[] {0}\n  %11 = QLinearConv(%1, %2, %3, %4, %5, %7, %2, %3)\n}\n"},
    {"onnxruntime: a graph it wrote optimized, channels last", 1, 0, 0, 0,
     "graph \"g\" (%1 \"x\": u8[1,6,6,8], %2 \"s\": f32[], %3 \"z\": u8[], %4 \"w\": i8[16,8,3,3], %5 \"s2\": f32[16], %6 \"z2\": i8[16]) -> (%11 \"y\") {\n"
     "  %7 = const i8[] {0}\n  %10 = com.microsoft.QLinearConv(%1, %2, %3, %4, %5, %7, %2, %3) {channels_last=1}\n"
     "  %11 = com.microsoft.NhwcMaxPool(%10) {kernel_shape=[2,2]}\n}\n"},
    {"onnxruntime: QLinearMatMul", 1, 0, 0, 0,
     "graph \"g\" (%1 \"x\": u8[5,64], %2 \"s\": f32[], %3 \"z\": u8[], %4 \"w\": u8[64,48], %5 \"s2\": f32[], %6 \"z2\": u8[]) -> (%11 \"y\") {\n"
     "  %11 = QLinearMatMul(%1, %2, %3, %4, %5, %6, %2, %3)\n}\n"},
    {"onnxruntime: QGemm", 1, 0, 0, 1e-6,
     "graph \"g\" (%1 \"x\": u8[5,64], %2 \"s\": f32[], %3 \"z\": u8[], %4 \"w\": i8[48,64], %5 \"s2\": f32[], %6 \"b\": i32[48]) -> (%11 \"y\") {\n"
     "  %7 = const i8[] {0}\n  %11 = com.microsoft.QGemm(%1, %2, %3, %4, %5, %7, %6) {transB=1}\n}\n"},
    {"onnxruntime: DynamicQuantizeLinear and MatMulInteger", 1, 0, 0, 1e-6,
     "graph \"g\" (%1 \"x\": f32[5,64], %4 \"w\": i8[64,48], %5 \"s\": f32[48]) -> (%15 \"y\") {\n"
     "  %6, %7, %8 = DynamicQuantizeLinear(%1)\n  %9 = MatMulInteger(%6, %4, %8)\n  %10 = Cast(%9) {to=1}\n  %11 = Mul(%7, %5)\n  %15 = Mul(%10, %11)\n}\n"},
    {"onnxruntime: DynamicQuantizeMatMul", 1, 0, 0, 1e-6,
     "graph \"g\" (%1 \"x\": f32[5,64], %4 \"w\": u8[64,48], %5 \"s\": f32[48], %6 \"z\": u8[48], %7 \"b\": f32[48]) -> (%15 \"y\") {\n"
     "  %15 = com.microsoft.DynamicQuantizeMatMul(%1, %4, %5, %6, %7)\n}\n"},
    {"onnxruntime: MatMulNBits of 2 bits", 0, 1, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[5,128], %4 \"w\": u8[96,4,8], %5 \"s\": f32[96,4]) -> (%15 \"y\") {\n"
     "  %15 = com.microsoft.MatMulNBits(%1, %4, %5) {K=128, N=96, bits=2, block_size=32}\n}\n"},
    {"onnxruntime: MatMulNBits of 4 bits with zero points and a bias", 0, 1, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[5,128], %4 \"w\": u8[96,4,16], %5 \"s\": f32[96,4], %6 \"p\": u8[96,2], %7 \"b\": f32[96]) -> (%15 \"y\") {\n"
     "  %15 = com.microsoft.MatMulNBits(%1, %4, %5, %6, _, %7) {K=128, N=96, bits=4, block_size=32}\n}\n"},
    {"onnxruntime: MatMulNBits of 8 bits", 0, 1, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[5,128], %4 \"w\": u8[96,4,32], %5 \"s\": f32[96,4]) -> (%15 \"y\") {\n"
     "  %15 = com.microsoft.MatMulNBits(%1, %4, %5) {K=128, N=96, bits=8, block_size=32}\n}\n"},
    {"onnxruntime: MatMulNBits of 2 bits that may round values", 1, 0, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[2,5,128], %4 \"w\": u8[96,4,8], %5 \"s\": f32[96,4]) -> (%15 \"y\") {\n"
     "  %15 = com.microsoft.MatMulNBits(%1, %4, %5) {K=128, N=96, accuracy_level=4, bits=2, block_size=32}\n}\n"},
    {"onnxruntime: MatMulNBits of 4 bits that may round values", 1, 0, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[2,5,128], %4 \"w\": u8[96,4,16], %5 \"s\": f32[96,4], %6 \"p\": u8[96,2]) -> (%15 \"y\") {\n"
     "  %15 = com.microsoft.MatMulNBits(%1, %4, %5, %6) {K=128, N=96, accuracy_level=4, bits=4, block_size=32}\n}\n"},
    {"onnxruntime: MatMulNBits of 8 bits that may round values", 1, 0, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[2,5,128], %4 \"w\": u8[96,4,32], %5 \"s\": f32[96,4], %6 \"p\": u8[96,4]) -> (%15 \"y\") {\n"
     "  %15 = com.microsoft.MatMulNBits(%1, %4, %5, %6) {K=128, N=96, accuracy_level=4, bits=8, block_size=32}\n}\n"},
    {"onnxruntime: MatMulNBits of 4 bits that may round values, a last block that is not whole", 1, 0, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[2,5,100], %4 \"w\": u8[96,2,32], %5 \"s\": f32[96,2]) -> (%15 \"y\") {\n"
     "  %15 = com.microsoft.MatMulNBits(%1, %4, %5) {K=100, N=96, accuracy_level=4, bits=4, block_size=64}\n}\n"},
    {"weights alone by Cast and Mul", 0, 1, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[5,128], %4 \"w\": i8[128,96], %5 \"s\": f32[1,96]) -> (%15 \"y\") {\n"
     "  %6 = Cast(%4) {to=1}\n  %7 = Mul(%6, %5)\n  %15 = MatMul(%1, %7)\n}\n"},
    {"weights alone by Cast, Sub and Mul, behind a transpose", 0, 1, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[5,128], %4 \"w\": u8[96,128], %5 \"s\": f32[96,1]) -> (%15 \"y\") {\n"
     "  %2 = const f32[] {128}\n  %6 = Cast(%4) {to=1}\n  %3 = Sub(%6, %2)\n  %7 = Mul(%3, %5)\n  %8 = Transpose(%7) {perm=[1,0]}\n  %15 = MatMul(%1, %8)\n}\n"},
    {"embeddings of 4 bits, packed, and a product with 4 bits", 0, 1, 0, 1e-5,
     "graph \"g\" (%1 \"x\": i64[7], %2 \"t\": u8[200,64], %3 \"s1\": f32[200,4], %4 \"w\": u8[96,4,16], %5 \"s\": f32[96,4]) -> (%15 \"y\") {\n"
     "  %6 = com.microsoft.GatherBlockQuantized(%2, %1, %3) {bits=4, block_size=32}\n"
     "  %15 = com.microsoft.MatMulNBits(%6, %4, %5) {K=128, N=96, bits=4, block_size=32}\n}\n"},
    {"attention: both operands computed", 1, 0, 0, 1e-5,
     "graph \"g\" (%1 \"x\": f32[2,3,8,16], %2 \"s\": f32[], %3 \"z\": u8[], %4 \"s2\": f32[]) -> (%11 \"y\") {\n"
     "  %6 = QuantizeLinear(%1, %2, %3)\n  %7 = DequantizeLinear(%6, %2, %3)\n  %8 = QuantizeLinear(%1, %4, %3)\n  %9 = DequantizeLinear(%8, %4, %3)\n"
     "  %10 = Transpose(%9) {perm=[0,1,3,2]}\n  %11 = MatMul(%7, %10)\n}\n"},
    {"float8 activations", 0, 0, 1, 1e-5,
     "graph \"g\" (%1 \"x\": f32[5,128], %2 \"s1\": f32[], %3 \"z\": f8e4m3fn[], %4 \"w\": f8e4m3fn[128,96], %5 \"s\": f32[96]) -> (%11 \"y\") {\n"
     "  %6 = QuantizeLinear(%1, %2, %3)\n  %7 = DequantizeLinear(%6, %2, %3)\n  %8 = DequantizeLinear(%4, %5) {axis=1}\n  %11 = MatMul(%7, %8)\n}\n"},
    {"8-bit activations, 4-bit weights", 0, 0, 1, 1e-5,
     "graph \"g\" (%1 \"x\": f32[5,128], %2 \"s1\": f32[], %3 \"z\": u8[], %4 \"w\": i4[128,96], %5 \"s\": f32[4,96]) -> (%11 \"y\") {\n"
     "  %6 = QuantizeLinear(%1, %2, %3)\n  %7 = DequantizeLinear(%6, %2, %3)\n  %8 = DequantizeLinear(%4, %5) {axis=0, block_size=32}\n  %11 = MatMul(%7, %8)\n}\n"},
};
/* clang-format on */

static World w;
static void setup(void) { world_open(&w); }
static void teardown(void) { world_close(&w); }
TestSuite(exporters, .init = setup, .fini = teardown);

static const Tensor *run(Graph *g, const Tensor *x)
{
    PassCtx ctx = {.module = &w.module, .mem = &w.mem, .scratch = &w.scratch};
    const Tensor *y = NULL;
    int *buf_of;
    Graph *flat = pass_expand(g, &ctx);
    Kernel *k = w.diag.errors ? NULL : lower_graph(flat, &w.mem, &buf_of);
    bool ok = k && interpret(flat, k, &w.mem, &x, &y, &w.diag);
    cr_assert(ok, "%s", w.diag.line.n ? w.diag.line.at[0] : "not lowered");
    return y;
}

static void check_form(const Form *f)
{
    Graph *parsed = graph_parse(&w.module, &w.mem, f->text);
    cr_assert(parsed, "%s: %s", f->name, w.diag.line.n ? w.diag.line.at[0] : "?");
    Graph *g = graph_with_constants(&w, parsed);
    IntegerNote note = {.mem = &w.mem};
    PassCtx ctx = {.module = &w.module, .mem = &w.mem, .scratch = &w.scratch, .integer = &note, .halves = true};
    Graph *made = passes_run(g, &ctx, NULL, NULL, &(PassRun){.verify = true});
    cr_assert(!w.diag.errors, "%s: %s", f->name, w.diag.line.n ? w.diag.line.at[0] : "?");
    const char *why = "";
    for (uint32_t i = 0; i < note.at.n; i++)
        if (note.at.at[i].why) why = note.at.at[i].why;
    cr_expect(note.n[CODED_INTEGER] == f->integer && note.n[CODED_WEIGHTS] == f->weights && note.n[CODED_FLOAT] == f->floats,
              "%s: %u integer, %u with codes as weights, %u float (%s)", f->name, note.n[CODED_INTEGER], note.n[CODED_WEIGHTS], note.n[CODED_FLOAT], why);
    const Tensor *x = made_up(&w, "x", val_type(g, g->input.at[0]), 99), *a = run(g, x), *b = run(made, x);
    double most = 0, apart = 0;
    cr_assert(tensor_count(a) == tensor_count(b) && a->type == b->type, "%s", f->name);
    for (int64_t i = 0; i < tensor_count(a); i++) {
        double p = dtype_load(a->type, a->data, i), q = dtype_load(b->type, b->data, i);
        most = fmax(most, fabs(p)), apart = fmax(apart, fabs(p - q));
    }
    cr_expect(most > 0 && apart <= f->room * most, "%s: %g of %g apart", f->name, apart, most);
}

Test(exporters, every_form_reaches_integers_or_keeps_its_codes)
{
    for (size_t i = 0; i < COUNT_OF(forms); i++) check_form(&forms[i]);
}
