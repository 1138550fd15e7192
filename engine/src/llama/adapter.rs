//! The adapters (LoRA) of a model, as llama.cpp has them.
//!
//! llama.cpp keeps a list of a model's adapters in the model and looks at it when it plans a computation, without a
//! lock. So only the thread that computes with the model loads and frees adapters.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::Path;
use std::ptr::NonNull;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::model::{LlamaLoraAdapter, LlamaModel};
use llama_cpp_sys_2::{llama_adapter_lora, llama_model};

use super::adapter_turns::AdapterId;
use super::backend::with_first_error;
use crate::LoadError;

/// How much of an adapter is added to the weights. Its own factor, alpha by rank, comes on top.
const SCALE: f32 = 1.0;

/// The adapters of a model, of which a context computes with one or none at a time.
pub(super) struct Adapters<'model> {
    model: &'model LlamaModel,
    loaded: BTreeMap<AdapterId, Adapter>,
    last_id: u64,
    /// The one that the context computes with.
    current: Option<AdapterId>,
}

/// A loaded adapter. One that is not freed is freed with its model.
struct Adapter {
    handle: LlamaLoraAdapter,
    pointer: NonNull<llama_adapter_lora>,
}

impl<'model> Adapters<'model> {
    /// Creates the list of a model's adapters, which is empty.
    pub(super) fn new(model: &'model LlamaModel) -> Self {
        Self {
            model,
            loaded: BTreeMap::new(),
            last_id: 0,
            current: None,
        }
    }

    /// Loads an adapter from a GGUF file.
    ///
    /// # Errors
    /// [`LoadError::Engine`] with llama.cpp's reason.
    pub(super) fn load(&mut self, path: &Path) -> Result<AdapterId, LoadError> {
        let name = path.to_string_lossy().into_owned();
        let name = CString::new(name).map_err(|error| LoadError::Engine(error.to_string()))?;
        let model = model_pointer(self.model);
        // SAFETY: the model is borrowed, the name ends with a zero, and no other thread uses the model's adapters.
        let init =
            || unsafe { llama_cpp_sys_2::llama_adapter_lora_init(model.as_ptr(), name.as_ptr()) };
        let (pointer, problem) = with_first_error(init);
        let Some(pointer) = NonNull::new(pointer) else {
            let problem = problem.unwrap_or_else(|| "llama.cpp gives no reason".to_owned());
            return Err(LoadError::Engine(problem));
        };
        self.last_id += 1;
        let id = AdapterId(self.last_id);
        self.loaded.insert(id, Adapter::new(pointer));
        Ok(id)
    }

    pub(super) fn contains(&self, id: AdapterId) -> bool {
        self.loaded.contains_key(&id)
    }

    /// Makes the context compute with this adapter, or with none. Returns whether that is a change.
    ///
    /// # Errors
    /// What llama.cpp says, or that the adapter is not loaded.
    pub(super) fn select(
        &mut self,
        context: &mut LlamaContext<'_>,
        id: Option<AdapterId>,
    ) -> Result<bool, String> {
        if self.current == id {
            return Ok(false);
        }
        match id {
            Some(id) => {
                let adapter = self.loaded.get_mut(&id);
                let adapter = adapter.ok_or("the adapter is not loaded")?;
                context
                    .lora_adapter_set(&mut adapter.handle, SCALE)
                    .map_err(|error| error.to_string())?;
            }
            None => self.deselect(context)?,
        }
        self.current = id;
        Ok(true)
    }

    /// Frees an adapter.
    ///
    /// # Errors
    /// What llama.cpp says. The adapter stays then.
    pub(super) fn remove(
        &mut self,
        context: &mut LlamaContext<'_>,
        id: AdapterId,
    ) -> Result<(), String> {
        if self.current == Some(id) {
            self.deselect(context)?;
            self.current = None;
        }
        if let Some(adapter) = self.loaded.remove(&id) {
            // SAFETY: the context has let it go, and nothing else has the pointer.
            unsafe { llama_cpp_sys_2::llama_adapter_lora_free(adapter.pointer.as_ptr()) };
        }
        Ok(())
    }

    /// Takes the current adapter from the context.
    fn deselect(&mut self, context: &mut LlamaContext<'_>) -> Result<(), String> {
        let current = self.current.and_then(|id| self.loaded.get_mut(&id));
        let Some(current) = current else {
            return Ok(());
        };
        let removed = context.lora_adapter_remove(&mut current.handle);
        removed.map_err(|error| error.to_string())
    }
}

impl Adapter {
    fn new(pointer: NonNull<llama_adapter_lora>) -> Self {
        // SAFETY: the crate's type is transparent over a pointer that is not null, and has no destructor.
        let handle = unsafe {
            std::mem::transmute::<NonNull<llama_adapter_lora>, LlamaLoraAdapter>(pointer)
        };
        Self { handle, pointer }
    }
}

/// llama.cpp's pointer to a model. The crate would have it for an exclusive reference only, which a model with a
/// context cannot give, although llama.cpp loads adapters at any time.
fn model_pointer(model: &LlamaModel) -> NonNull<llama_model> {
    // SAFETY: the crate's type is transparent over a pointer that is not null.
    unsafe { std::mem::transmute_copy::<LlamaModel, NonNull<llama_model>>(model) }
}
