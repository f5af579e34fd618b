/* repair.c - optimised LLVM IR in, the same IR without what LLVM's x86 code generation gets wrong out.
 *
 * A masked store whose constant mask wants one lane becomes, there, a scalar store of the lane; behind a truncation it stores the lane
 * as wide as it was before (LLVM 22: four bytes for a byte), over what is next to it. It is written as the scalar store that it is. */
#include "codegen/llvm/internal.h"
#include <string.h>

/* The lane that a constant mask wants, or -1: it wants several, or none, or is no constant. */
static int only_lane(V mask)
{
    int found = -1;
    if (!LLVMIsConstant(mask)) return -1;
    for (unsigned i = 0, n = LLVMGetVectorSize(LLVMTypeOf(mask)); i < n; i++) {
        V bit = LLVMGetAggregateElement(mask, i);
        if (!bit || !LLVMIsAConstantInt(bit)) return -1;
        if (!LLVMConstIntGetZExtValue(bit)) continue;
        if (found >= 0) return -1;
        found = (int)i;
    }
    return found;
}

static bool is_masked_store(V v)
{
    static const char name[] = "llvm.masked.store.";
    if (!LLVMIsACallInst(v)) return false;
    size_t n;
    const char *called = LLVMGetValueName2(LLVMGetCalledValue(v), &n);
    return !strncmp(called, name, sizeof name - 1);
}

static void store_lane(LLVMBuilderRef b, V store, int lane)
{
    LLVMPositionBuilderBefore(b, store);
    T i32 = LLVMInt32TypeInContext(LLVMGetModuleContext(LLVMGetGlobalParent(LLVMGetCalledValue(store))));
    V at = LLVMConstInt(i32, (unsigned long long)lane, 0);
    V v = LLVMBuildExtractElement(b, LLVMGetOperand(store, 0), at, "");
    V p = LLVMBuildInBoundsGEP2(b, LLVMTypeOf(v), LLVMGetOperand(store, 1), &at, 1, "");
    LLVMSetAlignment(LLVMBuildStore(b, v, p), 1);
    LLVMInstructionEraseFromParent(store);
}

void module_repair(LLVMModuleRef m)
{
    LLVMBuilderRef b = LLVMCreateBuilderInContext(LLVMGetModuleContext(m));
    for (V f = LLVMGetFirstFunction(m); f; f = LLVMGetNextFunction(f))
        for (LLVMBasicBlockRef block = LLVMGetFirstBasicBlock(f); block; block = LLVMGetNextBasicBlock(block))
            for (V v = LLVMGetFirstInstruction(block), next; v; v = next) {
                next = LLVMGetNextInstruction(v);
                int lane = is_masked_store(v) ? only_lane(LLVMGetOperand(v, 2)) : -1;
                if (lane >= 0) store_lane(b, v, lane);
            }
    LLVMDisposeBuilder(b);
}
