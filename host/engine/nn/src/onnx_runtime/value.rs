//! The library's tensors, through its interface in C.

use ort::sys::{ONNXTensorElementDataType as Type, OrtStatusPtr, OrtValue};
use ort::{AsPointer, memory::MemoryInfo};
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::{NonNull, null_mut};

/// An error of the library as text.
pub fn ok(status: OrtStatusPtr) -> Result<(), String> {
    // SAFETY: a status that the library just gave, and that nobody else has.
    #[allow(unsafe_code)]
    unsafe { ort::Error::result_from_status(status) }.map_err(|e| e.to_string())
}

/// A tensor of the library, or one over memory of ours.
pub struct Value<'a> {
    value: NonNull<OrtValue>,
    data: PhantomData<&'a [u8]>,
}

/// What a tensor is.
pub struct Description {
    pub element: Type,
    pub shape: Vec<i64>,
}

// SAFETY: nothing writes to a tensor, and its memory may be read from anywhere.
#[allow(unsafe_code)]
unsafe impl Send for Value<'_> {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Value<'_> {}

impl<'a> Value<'a> {
    /// A tensor over bytes that are aligned for its elements, and as many as type and shape ask for.
    pub fn over(
        memory: &MemoryInfo<'_>,
        data: &'a [u8],
        shape: &[i64],
        element: Type,
    ) -> Result<Value<'a>, String> {
        let mut value = null_mut();
        // SAFETY: the tensor refers to `data`, which it does not outlive. The library writes to no input.
        #[allow(unsafe_code)]
        ok(unsafe {
            (ort::api().CreateTensorWithDataAsOrtValue)(
                memory.ptr(),
                data.as_ptr().cast::<c_void>().cast_mut(),
                data.len(),
                shape.as_ptr(),
                shape.len(),
                element,
                &raw mut value,
            )
        })?;
        Value::taken(value)
    }

    /// Takes what the library gave.
    pub fn taken(value: *mut OrtValue) -> Result<Value<'a>, String> {
        let value = NonNull::new(value).ok_or("the library gave no value")?;
        Ok(Value { value, data: PhantomData })
    }

    pub fn ptr(&self) -> *const OrtValue {
        self.value.as_ptr()
    }

    /// # Errors
    /// A value that is no tensor.
    pub fn describe(&self) -> Result<Description, String> {
        let api = ort::api();
        let (mut is_tensor, mut info) = (0, null_mut());
        // SAFETY: the value is alive.
        #[allow(unsafe_code)]
        unsafe {
            ok((api.IsTensor)(self.ptr(), &raw mut is_tensor))?;
            if is_tensor == 0 {
                return Err("an output is not a tensor".into());
            }
            ok((api.GetTensorTypeAndShape)(self.ptr(), &raw mut info))?;
        }
        let read = || {
            let (mut element, mut rank) = (Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED, 0);
            // SAFETY: `info` is alive until it is released below; the shape has `rank` places.
            #[allow(unsafe_code)]
            unsafe {
                ok((api.GetTensorElementType)(info, &raw mut element))?;
                ok((api.GetDimensionsCount)(info, &raw mut rank))?;
                let mut shape = vec![0; rank];
                ok((api.GetDimensions)(info, shape.as_mut_ptr(), rank))?;
                Ok(Description { element, shape })
            }
        };
        let description = read();
        // SAFETY: nobody else has it.
        #[allow(unsafe_code)]
        unsafe {
            (api.ReleaseTensorTypeAndShapeInfo)(info);
        }
        description
    }

    /// The first `bytes` bytes of a tensor that [`describe`](Value::describe) says has as many.
    pub fn bytes(&self, bytes: usize) -> Result<&[u8], String> {
        if bytes == 0 {
            return Ok(&[]);
        }
        let mut data: *mut c_void = null_mut();
        // SAFETY: the value is alive, and nobody writes to it.
        #[allow(unsafe_code)]
        unsafe {
            ok((ort::api().GetTensorMutableData)(self.ptr().cast_mut(), &raw mut data))?;
            let data = NonNull::new(data).ok_or("an output has no data")?;
            Ok(std::slice::from_raw_parts(data.as_ptr().cast::<u8>(), bytes))
        }
    }
}

impl Value<'_> {
    /// The same tensor, no longer bound to memory of ours.
    ///
    /// # Safety
    /// Its elements lie in memory of the library's own.
    #[allow(unsafe_code)]
    pub unsafe fn owned(self) -> Value<'static> {
        let value = self.value;
        std::mem::forget(self);
        Value { value, data: PhantomData }
    }
}

impl Drop for Value<'_> {
    fn drop(&mut self) {
        // SAFETY: nobody else has it.
        #[allow(unsafe_code)]
        unsafe {
            (ort::api().ReleaseValue)(self.value.as_ptr());
        }
    }
}
