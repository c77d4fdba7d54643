// Convolution, pooling and sums over a batch for the CPU. XLA calls them through its foreign function
// interface.
//
// Images are float32 [batch, height, width, channel], kernels float32 [height, width, in, out]. The order of
// additions never depends on the number of threads, so results do not either.

#include "channel_sums.h"
#include "convolution.h"
#include "depthwise.h"
#include "pooling.h"

#define CONVOLUTION(name, function)                 \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, function,     \
                                ffi::Ffi::Bind()    \
                                    .Ctx<ffi::ThreadPool>() \
                                    .Arg<Buffer>()  \
                                    .Arg<Buffer>()  \
                                    .Attr<int64_t>("stride") \
                                    .Attr<int64_t>("top")    \
                                    .Attr<int64_t>("left")   \
                                    .Ret<Buffer>())

CONVOLUTION(conv_forward, ConvForward);
CONVOLUTION(conv_grad_images, ConvGradImages);
CONVOLUTION(conv_grad_kernel, ConvGradKernel);
CONVOLUTION(depthwise_forward, DepthwiseForward);
CONVOLUTION(depthwise_grad_images, DepthwiseGradImages);
CONVOLUTION(depthwise_grad_kernel, DepthwiseGradKernel);

XLA_FFI_DEFINE_HANDLER_SYMBOL(max_pool, MaxPool,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Buffer>()
                                  .Attr<int64_t>("window")
                                  .Attr<int64_t>("stride")
                                  .Attr<int64_t>("padding")
                                  .Ret<Buffer>()
                                  .Ret<Places>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(max_pool_grad, MaxPoolGrad,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Buffer>()
                                  .Arg<Places>()
                                  .Attr<int64_t>("window")
                                  .Attr<int64_t>("stride")
                                  .Attr<int64_t>("padding")
                                  .Ret<Buffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    channel_moments, ChannelMoments,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Buffer>().Arg<Buffer>().Ret<Buffer>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(normalize_grad_sums, NormalizeGradSums,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Attr<float>("low")
                                  .Attr<float>("high")
                                  .Ret<Buffer>());
